"""Azure's accounts and credentials: from its customary environment variables to pyarrow's arguments."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Mapping
from urllib.parse import urlsplit

from appliance.errors import StorageError

_PUBLIC_ENDINGS = (".dfs.core.windows.net", ".blob.core.windows.net")
_CHECK_TIMEOUT_S = 30.0
_CHECK = """
import json, sys
from pyarrow import fs
fs.AzureFileSystem(**json.loads(sys.argv[1])).get_file_info("credentials-check")
"""


def locate(user: str, authority: str, key: str, *, source: str) -> tuple[str | None, str, str]:
    """Account, container and key of an address.

    The account is None in `az://container/key`. Known besides are `abfs://container@account[...]/key`,
    and the account's host alone, `abfs://account.dfs.core.windows.net/container/key`.

    Raises:
        StorageError: There is no container.
    """
    if user:
        return authority.partition(".")[0], user, key
    if not authority.endswith(_PUBLIC_ENDINGS):
        return None, authority, key
    container, _, below = key.partition("/")
    if not container:
        raise StorageError(
            "The address names no container",
            where=source,
            expected="abfs://container@account.dfs.core.windows.net/name",
        )
    return authority.partition(".")[0], container, below


def settings(account: str | None, environment: Mapping[str, str]) -> dict[str, str]:
    """Arguments of `pyarrow.fs.AzureFileSystem`; without a key or token Azure's own search follows.

    Raises:
        StorageError: Nothing says which account.
    """
    given = _from_connection_string(environment.get("AZURE_STORAGE_CONNECTION_STRING", ""))
    for name, variables in (
        ("account_name", ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")),
        ("account_key", ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")),
        ("sas_token", ("AZURE_STORAGE_SAS_TOKEN",)),
    ):
        values = [environment[variable] for variable in variables if environment.get(variable)]
        if values and name not in given:
            given[name] = values[0]
    if account is not None:
        given["account_name"] = account
    if "account_name" not in given:
        raise StorageError(
            "The Azure account is not known",
            hint="Set AZURE_STORAGE_ACCOUNT_NAME or AZURE_STORAGE_CONNECTION_STRING, or write "
            "abfs://container@account.dfs.core.windows.net/name",
        )
    if "account_key" in given:
        given.pop("sas_token", None)  # pyarrow takes one of them
    return given


def _from_connection_string(text: str) -> dict[str, str]:
    parts = dict(part.partition("=")[::2] for part in text.split(";") if part)
    given = {
        argument: parts[name]
        for name, argument in (
            ("AccountName", "account_name"),
            ("AccountKey", "account_key"),
            ("SharedAccessSignature", "sas_token"),
        )
        if name in parts
    }
    endpoint = urlsplit(parts.get("BlobEndpoint", ""))
    if endpoint.netloc and not endpoint.netloc.endswith(_PUBLIC_ENDINGS):
        for service in ("blob", "dfs"):
            given[f"{service}_storage_authority"] = endpoint.netloc
            given[f"{service}_storage_scheme"] = endpoint.scheme
    return given


def check_credentials(arguments: Mapping[str, str]) -> None:
    """Lets a child process try Azure's own search for credentials (environment, identity, `az login`).

    Where it finds none, Azure's library ends the whole process instead of raising an error.

    Raises:
        StorageError: The child process was ended, or had no answer in time.
    """
    _check_once(json.dumps(arguments, sort_keys=True))


@functools.lru_cache
def _check_once(arguments: str) -> None:
    try:
        child = subprocess.run(
            [sys.executable, "-c", _CHECK, arguments],
            capture_output=True,
            timeout=_CHECK_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        found = False
    else:
        found = child.returncode >= 0  # a number below 0 is the signal that ended it
    if not found:
        raise StorageError(
            "No credentials for Azure were found",
            where=json.loads(arguments)["account_name"],
            hint="Set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN, or run `az login`",
        )

"""Addresses of object stores: which store they name, and how it is reached in bounded time.

- `s3://bucket/key`: S3 and what speaks its language. Credentials and endpoint come from AWS's own
  environment variables and files; options behind a `?`: region, endpoint_override, scheme.
- `gs://bucket/key`, `gcs://`: Google. Options: endpoint_override, scheme, retry_limit_seconds.
- `az://container/key`, `abfs://`, `abfss://`: Azure. The account comes from the address
  (`abfs://container@account.dfs.core.windows.net/key`) or the environment.
- Any other scheme that pyarrow or fsspec knows: `hdfs://`, `https://`, `zip://inside::/file.zip`, ...

`anonymous@` before the name of a bucket reads it without credentials. In the first three, names are
percent-encoded as in any URI, and need be so only where they hold a `%` or a `?`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, unquote

from appliance.errors import StorageError
from appliance.storage import azure
from appliance.storage.failures import explained

if TYPE_CHECKING:
    from pyarrow import fs

CONNECT_TIMEOUT_S = 10.0
REQUEST_TIMEOUT_S = 30.0
MAX_ATTEMPTS = 3
# Google's library would repeat for a quarter of an hour what will not work.
RETRY_LIMIT_S = 15.0

BUCKET_SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "abfss")
_ARROW_SCHEMES = ("hdfs", "viewfs", "mock")
_OPTIONS = {
    "s3": ("region", "endpoint_override", "scheme"),
    "gs": ("endpoint_override", "scheme", "retry_limit_seconds"),
    "az": (),
}
_ENVIRONMENT = ("AWS_", "GOOGLE_", "CLOUDSDK_", "STORAGE_EMULATOR_", "AZURE_")


@dataclass(frozen=True)
class BucketAddress:
    """The parts of an address in a bucket.

    Attributes:
        scheme: "s3", "gs" or "az".
        user: What stands before an `@`.
        bucket: Name of the bucket or container, or the host where the address names one.
        key: Name of the object, decoded; may be empty.
        options: What stands behind the `?`.
    """

    scheme: str
    user: str
    bucket: str
    key: str
    options: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, uri: str) -> BucketAddress:
        """Takes an address apart.

        Raises:
            StorageError: It has no bucket, a password or an option that is not known.
        """
        scheme, _, rest = uri.partition("://")
        scheme = {"gcs": "gs", "abfs": "az", "abfss": "az"}.get(scheme, scheme)
        place, _, query = rest.partition("?")
        authority, _, key = place.partition("/")
        user, _, bucket = authority.rpartition("@")
        if not bucket:
            raise StorageError(
                "The address names no bucket", where=uri, expected=f"{scheme}://bucket/name"
            )
        options = tuple(parse_qsl(query, keep_blank_values=True))
        for name, _ in options:
            if name not in _OPTIONS[scheme]:
                known = ", ".join(_OPTIONS[scheme]) or "none"
                raise StorageError(
                    "Unknown option in an address",
                    where=uri,
                    got=name,
                    expected=f"one of {known}" if _OPTIONS[scheme] else known,
                    hint="Write a ? that belongs to a name as %3F",
                )
        return cls(scheme, user, bucket, unquote(key), options)


def open_store(uri: str) -> tuple[fs.FileSystem, str]:
    """The store that an address names, and the path in it.

    Raises:
        StorageError: No store is known by that scheme, or it cannot be opened.
    """
    refuse_password(uri)
    with explained("Cannot open the address", uri):
        scheme = uri.partition("://")[0]
        if scheme not in BUCKET_SCHEMES:
            return _open_other(uri, scheme)
        address = BucketAddress.parse(uri)
        environment = tuple(
            item for item in sorted(os.environ.items()) if item[0].startswith(_ENVIRONMENT)
        )
        if address.scheme == "az":
            account, container, key = azure.locate(
                address.user, address.bucket, address.key, source=uri
            )
            return _azure_store(account, environment), f"{container}/{key}".rstrip("/")
        path = f"{address.bucket}/{address.key}".rstrip("/")
        if address.scheme == "s3":
            return _s3_store(address.bucket, address.user, address.options, environment), path
        return _gcs_store(address.user, address.options, environment), path


def refuse_password(uri: str) -> None:
    """Refuses a secret in an address: it would end up in every record and log line that names a picture.

    Raises:
        StorageError: There is one; it is not repeated.
    """
    scheme, _, rest = uri.partition("://")
    userinfo, at, place = rest.partition("/")[0].rpartition("@")
    if at and ":" in userinfo:
        below = rest.partition("/")[2]
        raise StorageError(
            "An address must not hold a password",
            where=f"{scheme}://{place}/{below}",
            hint="Set the store's own environment variables, such as AWS_SECRET_ACCESS_KEY",
        )


def s3_settings(
    bucket: str, options: Iterable[tuple[str, str]], environment: Mapping[str, str]
) -> dict[str, str]:
    """Where a bucket of S3 is: `region`, or `endpoint_override` with its `scheme`, or both.

    Args:
        bucket: Its name.
        options: Those of its address.
        environment: Variables that may name an endpoint.
    """
    from pyarrow import fs

    settings = dict(options)
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint and "endpoint_override" not in settings:
        scheme, _, host = endpoint.rpartition("://")
        settings |= {"scheme": scheme or "https", "endpoint_override": host.rstrip("/")}
    if not {"region", "endpoint_override"} & settings.keys():
        settings["region"] = fs.resolve_s3_region(bucket)
    return settings


# The environment is among the arguments of these only so that a change of it opens the store anew.


@functools.lru_cache(maxsize=16)
def _s3_store(
    bucket: str,
    user: str,
    options: tuple[tuple[str, str], ...],
    environment: tuple[tuple[str, str], ...],
) -> fs.FileSystem:
    from pyarrow import fs

    settings: dict[str, Any] = s3_settings(bucket, options, dict(environment))
    return fs.S3FileSystem(
        anonymous=user == "anonymous",
        connect_timeout=CONNECT_TIMEOUT_S,
        request_timeout=REQUEST_TIMEOUT_S,
        retry_strategy=fs.AwsStandardS3RetryStrategy(max_attempts=MAX_ATTEMPTS),
        **settings,
    )


@functools.lru_cache(maxsize=16)
def _gcs_store(
    user: str,
    options: tuple[tuple[str, str], ...],
    environment: tuple[tuple[str, str], ...],
) -> fs.FileSystem:
    from datetime import timedelta

    from pyarrow import fs

    settings = dict(options)
    limit_s = float(settings.pop("retry_limit_seconds", RETRY_LIMIT_S))
    emulator = dict(environment).get("STORAGE_EMULATOR_HOST")
    if emulator and "endpoint_override" not in settings:
        scheme, _, host = emulator.rpartition("://")
        settings = {"scheme": scheme or "http", "endpoint_override": host.rstrip("/")}
        user = "anonymous"
    return fs.GcsFileSystem(
        anonymous=user == "anonymous", retry_time_limit=timedelta(seconds=limit_s), **settings
    )


@functools.lru_cache(maxsize=16)
def _azure_store(account: str | None, environment: tuple[tuple[str, str], ...]) -> fs.FileSystem:
    from pyarrow import fs

    settings = azure.settings(account, dict(environment))
    if not {"account_key", "sas_token"} & settings.keys():
        azure.check_credentials(settings)
    return fs.AzureFileSystem(**settings)


def _open_other(uri: str, scheme: str) -> tuple[fs.FileSystem, str]:
    from pyarrow import fs

    if scheme in _ARROW_SCHEMES or scheme.startswith("fsspec+"):
        filesystem, path = fs.FileSystem.from_uri(uri)
        return filesystem, path
    from fsspec.core import url_to_fs

    options: dict[str, Any] = {}
    if scheme in ("http", "https"):
        import aiohttp

        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=REQUEST_TIMEOUT_S
        )
        options = {"client_kwargs": {"timeout": timeout}}
    store, path = url_to_fs(uri, **options)
    return fs.PyFileSystem(_handler(store)), path


def _handler(store: Any) -> fs.FileSystemHandler:
    import pyarrow as pa
    from pyarrow import fs

    class Handler(fs.FSSpecHandler):  # type: ignore[misc]  # pyarrow has no types
        """Opens at once: to ask first whether a file is there hides why it cannot be had."""

        def open_input_stream(self, path: str) -> pa.NativeFile:
            return pa.PythonFile(self.fs.open(path, mode="rb"), mode="r")

        open_input_file = open_input_stream

    return Handler(store)


def reads_ranges(filesystem: fs.FileSystem, path: str) -> bool:
    """Whether parts of a file can be asked for; some web servers only send it whole."""
    store: Any = getattr(getattr(filesystem, "handler", None), "fs", None)
    return "http" not in getattr(store, "protocol", ()) or bool(store.info(path).get("partial"))

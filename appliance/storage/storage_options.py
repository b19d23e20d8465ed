"""Addresses for libraries with stores of their own, such as Lance: the same places by the same environment."""

from __future__ import annotations

import os
from urllib.parse import quote

from appliance.errors import StorageError
from appliance.storage import azure
from appliance.storage.object_stores import (
    MAX_ATTEMPTS,
    RETRY_LIMIT_S,
    BucketAddress,
    refuse_password,
    s3_settings,
)

SCHEMES = ("s3", "az", "abfs", "abfss")


def storage_options(uri: str) -> tuple[str, dict[str, str]]:
    """An address as Rust's `object_store` takes it, and the options that lead there.

    Args:
        uri: As in `object_stores`, of S3 or Azure. Where Azure has neither key nor token, the library looks
            for a service principal or a managed identity; it does not ask `az`.

    Raises:
        StorageError: It is of another store, or as of `object_stores.open_store`.
    """
    refuse_password(uri)
    if uri.partition("://")[0] not in SCHEMES:
        raise StorageError(
            "A Lance table cannot be read from there",
            where=uri,
            expected="a path, s3:// or az://",
            hint="Copy it, or save it as Parquet",
        )
    address = BucketAddress.parse(uri)
    options = {
        "allow_http": "true",
        "client_max_retries": str(MAX_ATTEMPTS),
        "client_retry_timeout": f"{RETRY_LIMIT_S:.0f}",
    }
    if address.scheme == "s3":
        place = f"s3://{address.bucket}/{quote(address.key)}"
        return place, options | _s3_options(address)
    account, container, key = azure.locate(address.user, address.bucket, address.key, source=uri)
    return f"az://{container}/{quote(key)}", options | _azure_options(account)


def _s3_options(address: BucketAddress) -> dict[str, str]:
    settings = s3_settings(address.bucket, address.options, os.environ)
    options = {"aws_skip_signature": "true"} if address.user == "anonymous" else {}
    if "region" in settings:
        options["aws_region"] = settings["region"]
    if "endpoint_override" in settings:
        scheme = settings.get("scheme", "https")
        options["aws_endpoint"] = f"{scheme}://{settings['endpoint_override']}"
    return options


def _azure_options(account: str | None) -> dict[str, str]:
    settings = azure.settings(account, os.environ)
    options = {
        f"azure_storage_{name}": settings[name]
        for name in ("account_name", "account_key", "sas_token")
        if name in settings
    }
    if "blob_storage_authority" in settings:
        # Not Azure's own: there the account is the first name of the path.
        root = f"{settings['blob_storage_scheme']}://{settings['blob_storage_authority']}"
        options["azure_storage_endpoint"] = f"{root}/{settings['account_name']}"
    return options

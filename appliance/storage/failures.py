"""What stores say when something fails, made into one sentence and a next step."""

from __future__ import annotations

import contextlib
import errno
import re
import sys
from collections.abc import Iterator

from appliance.errors import StorageError

_MAX_REASON_CHARACTERS = 200
# Of network file systems, which look like local ones.
_TRANSIENT = {errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.EHOSTDOWN}
_CREDENTIALS = {
    "s3": "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
    "gs": "Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account",
    "gcs": "Set GOOGLE_APPLICATION_CREDENTIALS to the file of a service account",
    "az": "Set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    "abfs": "Set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
    "abfss": "Set AZURE_STORAGE_ACCOUNT_KEY or AZURE_STORAGE_SAS_TOKEN",
}
_NO_CREDENTIALS = "no credentials were found"
_DENIED = "permission denied"
_UNREACHABLE = "the store cannot be reached"
_KINDS = {
    "no such bucket": ("NO_SUCH_BUCKET|NoSuchBucket", "ContainerNotFound", "Bucket '.*' not found"),
    _NO_CREDENTIALS: ("OAuth2 access token|Failed to get AWS credentials",),
    _DENIED: (
        "ACCESS_DENIED|INVALID_ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH",  # S3
        "InvalidAccessKeyId|SignatureDoesNotMatch",
        "PERMISSION_DENIED|UNAUTHENTICATED",  # Google
        "AuthorizationFailure|AuthenticationFailed",  # Azure
        r"\b40[13]\b",
    ),
    _UNREACHABLE: (
        "NETWORK_CONNECTION|UNAVAILABLE|DEADLINE_EXCEEDED|SLOW_DOWN|REQUEST_TIMEOUT|INTERNAL_FAILURE",
        "Could not connect|Cannot connect|resolve host|[Tt]imed? ?out|[Tt]imeout",
        "[Cc]onnection (?:reset|closed|refused|aborted)|[Dd]isconnected|payload is not completed",
        r"^(?:429|50[0234]),|HTTP status 5\d\d",
        r"error sending request|non-2xx status code: (?:429|5\d\d)",  # what Lance reads with
    ),
    "nothing": (r"NOT_FOUND|\b404\b|[Nn]o such file|does not exist",),
}
_HINTS = {
    "no such bucket": "Check the name of the bucket",
    _UNREACHABLE: "Check the network and the endpoint",
    "nothing": "Check the name",
}


@contextlib.contextmanager
def explained(what: str, uri: object) -> Iterator[None]:
    """Turns what a store raises within the block into a `StorageError` that begins with `what`."""
    try:
        yield
    except StorageError as error:
        # Raised where the address was not known any more.
        error.where = error.where or str(uri)
        raise
    except _errors() as error:
        raise StorageError(
            what, where=uri, transient=transient(error), **_sentence(error, str(uri))
        ) from None


def transient(error: Exception) -> bool:
    """Whether the same may succeed a moment later: a network or a store did not answer."""
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, OSError):
        error = error.__cause__
    if isinstance(error, FileNotFoundError):
        return False
    return getattr(error, "errno", None) in _TRANSIENT or _kind(str(error)) == _UNREACHABLE


def reason(error: Exception) -> str:
    """The gist of an error of the operating system."""
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or repr(error)


def denied(error: Exception) -> bool:
    """Whether a store refused for want of a right."""
    return _kind(str(error)) == _DENIED


def _kind(text: str) -> str | None:
    kinds = (kind for kind, patterns in _KINDS.items() if re.search("|".join(patterns), text))
    return next(kinds, None)


def _sentence(error: Exception, uri: str) -> dict[str, str | None]:
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, OSError):
        error = error.__cause__  # fsspec's web files are "not found" also where no server answers
    kind = "nothing" if isinstance(error, FileNotFoundError) else _kind(str(error))
    if kind is None:
        return {"got": reason(error)[:_MAX_REASON_CHARACTERS], "hint": None}
    if kind in (_NO_CREDENTIALS, _DENIED):
        return {"got": kind, "hint": _CREDENTIALS.get(uri.partition("://")[0])}
    return {"got": kind, "hint": _HINTS[kind]}


def _errors() -> tuple[type[Exception], ...]:
    """What stores raise; a library that is not loaded cannot have raised anything."""
    foreign = (("pyarrow", "ArrowException"), ("aiohttp", "ClientError"))
    loaded = [getattr(sys.modules[name], error) for name, error in foreign if name in sys.modules]
    return (OSError, ValueError, NotImplementedError, ImportError, *loaded)

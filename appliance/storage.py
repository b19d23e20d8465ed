"""The one place that lists, reads and writes: local paths, and any URI that pyarrow.fs knows.

Local files go through the standard library; `s3://`, `gs://`, `az://` and the rest through
`pyarrow.fs`, imported only when such a URI is met. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlsplit

from appliance.errors import StorageError

if TYPE_CHECKING:
    from pyarrow import fs


def is_remote(uri: str | os.PathLike[str]) -> bool:
    """Whether `uri` names an object store rather than a local path."""
    return urlsplit(str(uri)).scheme not in ("", "file") and "://" in str(uri)


def local_path(uri: str | os.PathLike[str]) -> Path:
    """The local path of a plain path or `file://` URI."""
    text = str(uri)
    return Path(unquote(urlsplit(text).path)) if text.startswith("file://") else Path(text)


def absolute(uri: str | os.PathLike[str]) -> str:
    """The same place, named so that a process with another working folder finds it."""
    return str(uri) if is_remote(uri) else os.path.abspath(local_path(uri))


def list_files(uri: str | os.PathLike[str], extensions: Iterable[str]) -> list[str]:
    """All files below a folder or prefix whose names end in one of `extensions`, sorted.

    Args:
        uri: A folder, or a prefix in an object store.
        extensions: Lower-case endings with their dot; case is ignored in names.

    Raises:
        StorageError: There is no such folder, or it cannot be listed.
    """
    endings = tuple(extensions)
    if is_remote(uri):
        return _list_remote(str(uri), endings)
    folder = local_path(uri)
    if not folder.is_dir():
        raise StorageError(
            "No such folder",
            where=folder,
            got="a file" if folder.exists() else "nothing",
            hint="Check the path",
        )
    found: list[str] = []
    for parent, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [
            os.path.join(parent, name)
            for name in names
            if name.lower().endswith(endings) and not name.startswith(".")
        ]
    return sorted(found)


def read_bytes(uri: str | os.PathLike[str]) -> bytes:
    """The whole content of one file.

    Raises:
        StorageError: It is not there or cannot be read.
    """
    try:
        if is_remote(uri):
            filesystem, path = _remote(str(uri))
            with filesystem.open_input_stream(path) as stream:
                return bytes(stream.read())
        return local_path(uri).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path, or Arrow's own errors
        raise StorageError("Cannot read the file", where=uri, got=_reason(error)) from None


def check_writable(uri: str | os.PathLike[str]) -> None:
    """Finds out before long work whether its result can be written; makes the folder of a local path.

    Raises:
        StorageError: It cannot. An object store is only asked at the end.
    """
    if is_remote(uri):
        return
    path = local_path(uri)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise StorageError(
            "Cannot write there", where=uri, got=_reason(error), hint="Choose another path"
        ) from None
    if path.is_dir():
        raise StorageError(
            "Cannot write there", where=uri, got="a folder", expected="the path of a file"
        )


def write_bytes(uri: str | os.PathLike[str], data: bytes) -> None:
    """Writes one file so that readers see the old content or all of the new, never a part.

    Raises:
        StorageError: It cannot be written.
    """
    try:
        if is_remote(uri):
            filesystem, path = _remote(str(uri))
            # An object appears in one piece when its upload is closed.
            with filesystem.open_output_stream(path) as stream:
                stream.write(data)
            return
        path_local = local_path(uri)
        path_local.parent.mkdir(parents=True, exist_ok=True)
        temporary = path_local.with_name(f".{path_local.name}.{uuid.uuid4().hex}.part")
        try:
            with temporary.open("xb") as stream_local:
                stream_local.write(data)
                stream_local.flush()
                os.fsync(stream_local.fileno())
            os.replace(temporary, path_local)
        finally:
            temporary.unlink(missing_ok=True)
    except (OSError, ValueError) as error:
        raise StorageError("Cannot write the file", where=uri, got=_reason(error)) from None


def _list_remote(uri: str, endings: tuple[str, ...]) -> list[str]:
    from pyarrow import fs

    filesystem, path = _remote(uri)
    try:
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    except OSError as error:
        raise StorageError("Cannot list the folder", where=uri, got=_reason(error)) from None
    # Listed names become URIs that can be read: below the address as it was given, with its options
    # (region, endpoint), and percent-encoded as every scheme but fsspec's wants it.
    prefix, _, options = uri.partition("?")
    encode = str if prefix.startswith("fsspec+") else quote
    names = (info.path[len(path.rstrip("/")) :] for info in infos if info.is_file)
    found = (name for name in names if name.lower().endswith(endings))
    return sorted(
        prefix.rstrip("/") + encode(name) + (f"?{options}" if options else "") for name in found
    )


def _remote(uri: str) -> tuple[fs.FileSystem, str]:
    import pyarrow as pa
    from pyarrow import fs

    parts = urlsplit(uri)
    if parts.password:
        # It would end up in every record and log line that names a picture.
        raise StorageError(
            "An address must not hold a password",
            where=f"{parts.scheme}://{parts.hostname}{parts.path}",
            hint="Set the store's own environment variables, such as AWS_SECRET_ACCESS_KEY",
        )
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pa.ArrowException, OSError, ValueError, ImportError) as error:
        raise StorageError("Cannot open the address", where=uri, got=_reason(error)) from None
    return filesystem, path


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).partition("\n")[0] or repr(error)

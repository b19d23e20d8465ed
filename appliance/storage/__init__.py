"""The one place that lists, reads and writes: local paths, and any URI that pyarrow.fs or fsspec knows.

Local files go through the standard library; `s3://`, `gs://`, `az://` and the rest through the stores
of `object_stores`, imported only when such a URI is met. Nothing here knows what the bytes mean.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import stat
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote, urlsplit

from appliance.errors import StorageError
from appliance.storage.failures import denied, explained, reason, transient

if TYPE_CHECKING:
    from pyarrow import NativeFile, fs

_NAME = "-name-of-a-file-"
_RANGE_BYTES = 64 * 2**10
_SCHEMES_WITH_PLAIN_NAMES = ("fsspec+", "memory", "zip", "tar", "libarchive", "ftp", "sftp", "ssh")


def is_remote(uri: str | os.PathLike[str]) -> bool:
    """Whether `uri` names an object store rather than a local path."""
    scheme, mark, _ = str(uri).partition("://")
    return bool(mark) and scheme not in ("", "file") and "/" not in scheme


def local_path(uri: str | os.PathLike[str]) -> Path:
    """The local path of a plain path or `file://` URI."""
    text = str(uri)
    return Path(unquote(urlsplit(text).path)) if text.startswith("file://") else Path(text)


def absolute(uri: str | os.PathLike[str]) -> str:
    """The same place, named so that a process with another working folder finds it."""
    return str(uri) if is_remote(uri) else os.path.abspath(local_path(uri))


def join(folder: str | os.PathLike[str], *names: str) -> str:
    """The address of something below a folder; in a store, `names` are encoded as its addresses want it."""
    text = str(folder)
    if not is_remote(text):
        return os.path.join(local_path(text), *names)
    if text.startswith(_SCHEMES_WITH_PLAIN_NAMES):
        scheme, mark, rest = text.partition("://")
        inside, chain, outside = rest.partition("::")  # as in zip://inside::/pictures.zip
        return scheme + mark + "/".join((inside.rstrip("/"), *names)) + chain + outside
    # Options (region, endpoint) stay at the end.
    prefix, mark, options = text.partition("?")
    return "/".join((prefix.rstrip("/"), *map(quote, names))) + mark + options


def open_store(uri: str) -> tuple[fs.FileSystem, str]:
    """The store of a URI and the path in it, for readers that work on a `pyarrow.fs.FileSystem`.

    Raises:
        StorageError: No store is known by that scheme, or it cannot be opened.
    """
    from appliance.storage import object_stores

    return object_stores.open_store(uri)


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


def read_bytes(uri: str | os.PathLike[str], *, max_bytes: int | None = None) -> bytes:
    """The whole content of one file, or as much of it as is wanted.

    Args:
        uri: The file.
        max_bytes: Read no more than the first so many.

    Raises:
        StorageError: It is not there or cannot be read.
    """
    if is_remote(uri):
        with explained("Cannot read the file", uri):
            filesystem, path = open_store(str(uri))
            with filesystem.open_input_stream(path) as stream:
                return _read(stream, max_bytes)
    with (
        _local_failures("Cannot read the file", uri, "Check the path"),
        local_path(uri).open("rb") as file,
    ):
        if max_bytes is None and stat.S_ISCHR(os.fstat(file.fileno()).st_mode):
            raise StorageError(
                "Cannot read the file", where=uri, got="a device", hint="Name a file"
            )
        return file.read(-1 if max_bytes is None else max_bytes)


def _read(stream: NativeFile, max_bytes: int | None) -> bytes:
    if max_bytes is None:
        return bytes(stream.read())
    data = bytearray()
    while len(data) < max_bytes and (chunk := stream.read(max_bytes - len(data))):
        data += chunk  # a web server may give less than was asked for
    return bytes(data)


def open_input(uri: str | os.PathLike[str]) -> BinaryIO:
    """Opens a file to read parts of it: seekable, buffered; a remote one is fetched in ranges of 64 KiB.

    Reading may raise `OSError`, as with any file.

    Raises:
        StorageError: It is not there or cannot be opened.
    """
    if is_remote(uri):
        from appliance.storage import object_stores

        with explained("Cannot read the file", uri):
            filesystem, path = open_store(str(uri))
            if not object_stores.reads_ranges(filesystem, path):
                return io.BytesIO(read_bytes(uri))
            file = filesystem.open_input_file(path)
            # Without a buffer every read of a few bytes would be a request.
            return io.BufferedReader(_Ranges(filesystem, file, str(uri)), _RANGE_BYTES)
    with _local_failures("Cannot read the file", uri, "Check the path"):
        return local_path(uri).open("rb")


class _Ranges(io.RawIOBase):
    """A remote file that asks for what is read and for nothing more, whatever its store prefetches."""

    def __init__(self, filesystem: fs.FileSystem, file: NativeFile, uri: str) -> None:
        self._filesystem = filesystem  # that of an archive closes its files when it goes
        self._file = file
        self._uri = uri
        self._size: int = file.size()
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise OSError("Negative seek position")
        self._position = start + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        with explained("Cannot read the file", self._uri):
            data = self._file.read_at(wanted, self._position)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def check_writable(uri: str | os.PathLike[str]) -> None:
    """Finds out before long work whether its result can be written; makes the folder of a local path.

    Of an object store it is only known whether it answers, knows the credentials and has the bucket.

    Raises:
        StorageError: It cannot.
    """
    if is_remote(uri):
        _check_bucket(str(uri))
        return
    path = local_path(uri)
    with _local_failures("Cannot write there", uri, hint="Choose another path"):
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        probe.touch(exist_ok=False)
        probe.unlink()
        refuse_odd_target(path)
    if path.is_dir():
        raise StorageError(
            "Cannot write there", where=uri, got="a folder", expected="the path of a file"
        )


def refuse_odd_target(path: Path) -> None:
    """Keeps devices and pipes, which a new file would take the place of: /dev/null is lost easily as root.

    Raises:
        OSError: It is one.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(errno.EINVAL, "a device or pipe")


def write_bytes(uri: str | os.PathLike[str], data: bytes) -> None:
    """Writes one file so that readers see the old content or all of the new, never a part.

    Raises:
        StorageError: It cannot be written.
    """
    if is_remote(uri):
        content = memoryview(data)  # what is no bytes fails here, before there is an object
        with explained("Cannot write the file", uri):
            filesystem, path = open_store(str(uri))
            # An object appears in one piece when its upload is closed.
            with filesystem.open_output_stream(path) as stream:
                stream.write(content)
        return
    path_local = local_path(uri)
    with _local_failures("Cannot write the file", uri, "Choose another path"):
        refuse_odd_target(path_local)
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


def _list_remote(uri: str, endings: tuple[str, ...]) -> list[str]:
    from pyarrow import fs

    with explained("Cannot list the folder", uri):
        filesystem, path = open_store(uri)
        infos = filesystem.get_file_info(fs.FileSelector(path, recursive=True))
    root = path.strip("/")
    names = [info.path.lstrip("/")[len(root) :].lstrip("/") for info in infos if info.is_file]
    if uri.startswith(("http://", "https://")):
        names = [unquote(name) for name in names]  # they come from links, where they are encoded
    # As `join`, which would take the address apart anew for each of a million names.
    before, after = join(uri, _NAME).split(_NAME)
    encode = str if uri.startswith(_SCHEMES_WITH_PLAIN_NAMES) else quote
    return sorted(
        before + encode(name) + after
        for name in names
        if name.lower().endswith(endings) and "/." not in f"/{name}"
    )


def _check_bucket(uri: str) -> None:
    from pyarrow import fs

    from appliance.storage.object_stores import BUCKET_SCHEMES

    with explained("Cannot write there", uri):
        filesystem, path = open_store(uri)
        if not uri.startswith(tuple(f"{scheme}://" for scheme in BUCKET_SCHEMES)):
            return
        bucket = path.partition("/")[0]
        try:
            found = filesystem.get_file_info(bucket).type != fs.FileType.NotFound
        except OSError as error:
            if denied(error):
                return  # to ask for the bucket takes a right of its own, which writers may lack
            raise
        if not found:
            raise StorageError(
                "Cannot write there",
                where=uri,
                got=f"no bucket {bucket!r}",
                hint="Check the name of the bucket",
            )


@contextlib.contextmanager
def _local_failures(
    what: str, uri: str | os.PathLike[str], hint: str | None = None
) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise StorageError(
            what, where=uri, got=reason(error), hint=hint, transient=transient(error)
        ) from None

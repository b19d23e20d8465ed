"""Pictures in a tar archive, compressed or not.

Of an archive that is not compressed any member can be read at once. A compressed one is unpacked from
front to back, a member in memory at a time.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import lzma
import tarfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import IO, Any, BinaryIO, cast

from appliance.bulk.inputs.archives import (
    damaged,
    is_picture,
    listing_of,
    not_an_archive,
    plain_name,
)
from appliance.bulk.inputs.containers import Fetch, too_large
from appliance.bulk.inputs.listing import Listing, PictureRef
from appliance.bulk.inputs.patterns import NameFilter
from appliance.bulk.inputs.streams import StreamPool, open_sequential
from appliance.errors import StorageError
from appliance.images.decoding import ImageLimits
from appliance.storage.failures import explained

EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAX_HEADER_BYTES = 2**20
_BROKEN = (
    *(tarfile.TarError, OSError, EOFError, ValueError, OverflowError),
    *(zlib.error, lzma.LZMAError),
)
_EXPECTED = "a tar archive, plain or packed by gzip, bzip2 or xz"


def list_tar(uri: str, names: NameFilter = NameFilter()) -> Listing:
    """The pictures in a tar archive, sorted by name, or of a compressed one in the order they lie in.

    Of members with the same name the last one counts, as when they are unpacked.

    Raises:
        StorageError: It is no tar archive, has a name that points out of it, or no picture that is wanted.
    """
    found: dict[str, tuple[str, PictureRef]] = {}
    with open_sequential(uri) as stream:
        unpacked, compressed = _unpacked(stream, uri)
        try:
            for info in _members(unpacked):
                path = plain_name(info.name, archive=uri)
                if info.isreg() and is_picture(path):
                    _refuse_sparse(info, uri)
                    name = _text(info.name)
                    found.pop(name, None)  # so that it comes where the last one lies
                    where = f"tar://{name}::{uri}"
                    ref = PictureRef(where, uri, name, info.offset_data, info.size)
                    found[name] = (_text(path), ref)
        except _BROKEN as error:
            raise not_an_archive(uri, error, _EXPECTED) from None
    order = found if compressed else sorted(found)
    return listing_of("tar", uri, (found[name] for name in order), names)


class TarArchive(AbstractContextManager["TarArchive"]):
    """A tar archive to read from.

    Args:
        uri: The archive.
        limits: `max_bytes` is the most that is read of a member.

    Raises:
        StorageError: It cannot be opened.
    """

    def __init__(self, uri: str, limits: ImageLimits) -> None:
        self._uri = uri
        self._max_bytes = limits.max_bytes
        self._pool = StreamPool(uri)
        with ExitStack() as stack:
            stream = stack.enter_context(open_sequential(uri))
            self._unpacked, self._compressed = _unpacked(stream, uri)
            stack.enter_context(self._unpacked)
            self._closing = stack.pop_all()

    def __exit__(self, *exc: object) -> None:
        self._pool.close()
        self._closing.close()

    def read(self, refs: Sequence[PictureRef]) -> Iterator[Fetch]:
        """One `Fetch` a picture, in the order given; fastest in the order they lie in.

        Raises:
            StorageError: A compressed archive is damaged, or its store fails.
        """
        for ref in refs:
            if self._compressed and ref.size_bytes <= self._max_bytes:
                yield functools.partial(_same, self._next(ref))
            else:
                yield functools.partial(self._fetch, ref)

    def _next(self, ref: PictureRef) -> bytes:
        try:
            return _read(self._unpacked, ref)
        except _BROKEN as error:
            raise not_an_archive(self._uri, error, _EXPECTED) from None

    def _fetch(self, ref: PictureRef) -> bytes:
        if ref.size_bytes > self._max_bytes:
            raise too_large(ref.image_uri, self._max_bytes)
        with self._pool.stream() as stream, explained("Cannot read the archive", self._uri):
            try:
                return _read(stream, ref)
            except EOFError as error:
                raise damaged(ref, error) from None


class _Bounded:
    """A stream that gives no more at once than any honest header has: some hold what they claim in memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.seek, self.tell = stream.seek, stream.tell

    def read(self, size: int) -> bytes:
        if not 0 <= size <= _MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size:,} bytes")
        return self._stream.read(size)


def _members(unpacked: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """The members in their order.

    Raises:
        tarfile.TarError: It is no tar archive, or ends before its end; and what its compression raises.
    """
    bounded = cast(IO[bytes], _Bounded(unpacked))
    with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8") as archive:
        begin = -1
        while (info := archive.next()) is not None:
            cast(Any, archive).members.clear()  # else it keeps them all
            if info.size < 0 or info.offset <= begin:
                raise tarfile.ReadError("a header that leads backwards")
            begin = info.offset
            yield info
        # A header that cannot be read ends the archive without an error.
        unpacked.seek(archive.offset)
        if unpacked.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise tarfile.ReadError("a damaged header, or the end in the midst of one")


def _unpacked(stream: BinaryIO, uri: str) -> tuple[BinaryIO, bool]:
    """The archive without its compression, told by its first bytes, and whether it has any."""
    with explained("Cannot read the archive", uri):
        magic = stream.read(6)
        stream.seek(0)
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, gzip.GzipFile(fileobj=stream)), True
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(stream)), True
    if magic == b"\xfd7zXZ\0":
        return cast(BinaryIO, lzma.LZMAFile(stream)), True
    return stream, False


def _read(stream: BinaryIO, ref: PictureRef) -> bytes:
    stream.seek(ref.position)
    data = stream.read(ref.size_bytes)
    if len(data) < ref.size_bytes:
        raise EOFError(f"{len(data):,} of {ref.size_bytes:,} bytes")
    return data


def _same(data: bytes) -> bytes:
    return data


def _text(name: str) -> str:
    """A name whose bytes are no UTF-8 as text that can be written."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _refuse_sparse(info: tarfile.TarInfo, uri: str) -> None:
    if info.issparse():
        raise StorageError(
            "The archive stores a picture as a sparse file",
            where=uri,
            got=ascii(info.name),
            hint="Pack it anew without --sparse",
        )

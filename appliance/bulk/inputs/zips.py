"""Pictures in a zip archive, read and unpacked in any number of threads at once.

Of the standard library only the table of contents is used: its reader would take one thread at a time, and
unpacks some kinds of compression without a bound.
"""

from __future__ import annotations

import functools
import io
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import BinaryIO

from appliance import storage
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
from appliance.bulk.inputs.streams import StreamPool
from appliance.errors import ImageError
from appliance.images.decoding import ImageLimits
from appliance.storage.failures import explained

_LOCAL_HEADER = struct.Struct("<26xHH")  # at its end the lengths of a name and of something else
_LOCAL_SIGNATURE = b"PK\x03\x04"
_ENCRYPTED = 1
_BROKEN = (
    *(zipfile.BadZipFile, OSError, ValueError, EOFError),
    *(NotImplementedError, OverflowError, struct.error, IndexError),
)


def list_zip(uri: str, names: NameFilter = NameFilter()) -> Listing:
    """The pictures in a zip archive, sorted by name.

    Raises:
        StorageError: It is no zip archive, has a name that points out of it, or no picture that is wanted.
    """
    found: dict[str, tuple[str, PictureRef]] = {}
    for info in _contents(uri):
        path = plain_name(info.filename, archive=uri)
        if is_picture(path) and stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG):
            ref = PictureRef(f"zip://{info.filename}::{uri}", uri, info.filename)
            found[info.filename] = (path, ref)
    return listing_of("zip", uri, (found[name] for name in sorted(found)), names)


class ZipArchive(AbstractContextManager["ZipArchive"]):
    """A zip archive to read from.

    Args:
        uri: The archive.
        limits: `max_bytes` is the most that is unpacked of a member.

    Raises:
        StorageError: It is no zip archive.
    """

    def __init__(self, uri: str, limits: ImageLimits) -> None:
        self._uri = uri
        self._max_bytes = limits.max_bytes
        self._contents = {info.filename: info for info in _contents(uri)}
        self._pool = StreamPool(uri)

    def __exit__(self, *exc: object) -> None:
        self._pool.close()

    def read(self, refs: Sequence[PictureRef]) -> Iterator[Fetch]:
        """One `Fetch` a picture, in the order given."""
        for ref in refs:
            yield functools.partial(self._fetch, ref)

    def _fetch(self, ref: PictureRef) -> bytes:
        info = self._contents.get(ref.member)
        if info is None:
            raise ImageError("The archive has no such member", kind="missing", where=ref.image_uri)
        if max(info.file_size, info.compress_size) > self._max_bytes:
            raise too_large(ref.image_uri, self._max_bytes)
        if info.flag_bits & _ENCRYPTED:
            raise _unsupported(ref, "an encrypted member")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise _unsupported(ref, f"compression method {info.compress_type}")
        with self._pool.stream() as stream:
            packed = _packed(stream, info, ref, uri=self._uri)
        data = packed if info.compress_type == zipfile.ZIP_STORED else self._inflated(packed, ref)
        if len(data) > self._max_bytes:
            raise too_large(ref.image_uri, self._max_bytes)
        if len(data) != info.file_size or zlib.crc32(data) != info.CRC:
            raise damaged(ref, "other bytes than its checksum is of")
        return data

    def _inflated(self, packed: bytes, ref: PictureRef) -> bytes:
        try:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, self._max_bytes + 1)
        except zlib.error as error:
            raise damaged(ref, error) from None


def _packed(stream: BinaryIO, info: zipfile.ZipInfo, ref: PictureRef, *, uri: str) -> bytes:
    with explained("Cannot read the archive", uri):
        stream.seek(max(info.header_offset, 0))
        head = stream.read(_LOCAL_HEADER.size)
        if len(head) == _LOCAL_HEADER.size and head.startswith(_LOCAL_SIGNATURE):
            stream.seek(sum(_LOCAL_HEADER.unpack(head)), io.SEEK_CUR)
            packed = stream.read(info.compress_size)
            if len(packed) == info.compress_size:
                return packed
    raise damaged(ref, "other bytes than the table of contents says")


def _contents(uri: str) -> list[zipfile.ZipInfo]:
    with storage.open_input(uri) as stream:
        try:
            with zipfile.ZipFile(stream) as archive:
                return archive.infolist()
        except _BROKEN as error:
            raise not_an_archive(uri, error, "a zip archive") from None


def _unsupported(ref: PictureRef, got: str) -> ImageError:
    return ImageError(
        "The member of the archive cannot be unpacked",
        kind="unsupported",
        where=ref.image_uri,
        got=got,
        expected="one that is stored or deflated, without a password",
    )

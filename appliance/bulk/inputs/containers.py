"""What pictures are read from: one file each, or many in an archive, a table or a video.

Reading has two halves. The first goes through the pictures in order, in one thread, as a table or a video
must be read. The second, `Fetch`, may run in any thread at any time: there files are read from a store and
members of an archive unpacked. Containers that must be read in order do their work in the first half.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from appliance import storage
from appliance.bulk.inputs.listing import PictureRef
from appliance.errors import ImageError, StorageError
from appliance.images.decoding import DecodedImage


@dataclass(frozen=True, eq=False)
class Frame:
    """A picture that was never encoded by itself: a frame of a video.

    Attributes:
        image: Its pixels.
        content_sha256: Hash of the RGB pixels, row by row.
    """

    image: DecodedImage
    content_sha256: str


Content = bytes | Frame
Fetch = Callable[[], Content]
"""Gives one picture. Raises StorageError or ImageError, for this picture alone."""


class Container(AbstractContextManager["Container"], Protocol):
    """Something open that pictures are read from; a `with` block closes it."""

    def read(self, refs: Sequence[PictureRef]) -> Iterator[Fetch]:
        """One `Fetch` a picture, in the order given; takes one thread at a time.

        Raises:
            StorageError: The container cannot be read any further, whatever picture is asked for.
        """
        ...


class Files(AbstractContextManager["Files"]):
    """Pictures that are files of their own.

    Args:
        max_bytes: Larger ones are refused, unread.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    def __exit__(self, *exc: object) -> None:
        return None

    def read(self, refs: Sequence[PictureRef]) -> Iterator[Fetch]:
        """One `Fetch` a picture, in the order given."""
        for ref in refs:
            yield partial(self._fetch, ref.image_uri)

    def _fetch(self, uri: str) -> bytes:
        _refuse_pipes(uri)
        data = storage.read_bytes(uri, max_bytes=self._max_bytes + 1)
        if len(data) > self._max_bytes:
            raise too_large(uri, self._max_bytes)
        return data


def _refuse_pipes(uri: str) -> None:
    """Refuses a named pipe, socket or device, whose reader would wait for ever or get no end."""
    if storage.is_remote(uri):
        return
    try:
        mode = storage.local_path(uri).stat().st_mode
    except (OSError, ValueError):
        return  # whoever reads it says why it cannot be read
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise StorageError(
            "Cannot read the file", where=uri, got="a pipe, socket or device", expected="a file"
        )


def too_large(image_uri: str, max_bytes: int) -> ImageError:
    """The error of a picture that was not read to its end."""
    return ImageError(
        "The picture is too large",
        kind="too_large",
        where=image_uri,
        got=f"more than {max_bytes:,} bytes",
        expected=f"at most {max_bytes:,}",
    )

"""A stream of lines, each of which names a picture or brings it along: NDJSON, as on standard input.

A line is `{"image_uri": URI}`, `{"image_uri": NAME, "image_in_base64": TEXT}` or a JSON string, the URI. One
that is none of these gives an error record under the name of its number, and the next is read.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import json
import os
import select
import threading
import time
from collections.abc import Iterator
from typing import Any

from appliance.bulk.inputs.addresses import resolve
from appliance.bulk.inputs.containers import Content, Files
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.stream.sources.arrivals import Arrival, NotYet, Source, Waiting, legible
from appliance.bulk.stream.sources.identities import identity_of
from appliance.errors import ImageError, StorageError

_READ_BYTES = 2**20
_LOOK_ROUND_S = 0.1
_MAX_EXAMPLE_BYTES = 60


class LineSource(Source):
    """Pictures named on a stream.

    Args:
        descriptor: Of the open stream; it stays open.
        max_bytes: Larger pictures are not read; a line may be as long as one of these in base64.
        memory_bytes: Of lines that are under way. One line may exceed it: then it is alone.
    """

    def __init__(self, descriptor: int, *, max_bytes: int, memory_bytes: int) -> None:
        self.uri = "-"
        self.in_store = True  # perhaps
        self.is_lasting = self.is_live = False
        self.dropped = 0
        self._descriptor = descriptor
        self._max_line_bytes = max_bytes * 4 // 3 + _READ_BYTES
        self._memory_bytes = memory_bytes
        self._files = Files(max_bytes)
        self._folder = os.getcwd()
        self._is_stopped = False
        self._released = threading.Condition()
        self._under_way: dict[Arrival, int] = {}

    def stop(self) -> None:
        """Reads no more lines; one that has come in part stays unread."""
        self._is_stopped = True

    def arrivals(self) -> Iterator[Arrival]:
        """The picture of each line."""
        for number, line in enumerate(self._lines(), 1):
            if line is None or line.strip():
                arrival = self._arrival(number, line)
                line_bytes = len(line or b"")
                with self._released:
                    self._released.wait_for(functools.partial(self._has_room, line_bytes))
                    self._under_way[arrival] = line_bytes
                yield arrival

    def done(self, arrival: Arrival) -> None:
        """Makes room for further lines."""
        with self._released:
            del self._under_way[arrival]
            self._released.notify_all()

    def put_back(self, arrival: Arrival, why: NotYet) -> None:
        """Never asked for: each line gives a record."""
        raise NotImplementedError

    def waiting(self) -> Waiting:
        """The lines that have been read."""
        now_s = time.monotonic()
        with self._released:
            oldest_s = max((now_s - arrival.came_s for arrival in self._under_way), default=0.0)
            return Waiting(len(self._under_way), oldest_s)

    def _has_room(self, line_bytes: int) -> bool:
        held = sum(self._under_way.values())
        return not held or held + line_bytes <= self._memory_bytes

    def _lines(self) -> Iterator[bytes | None]:
        """The lines without their ends; None for one that is too long."""
        pending, is_too_long = bytearray(), False
        while not self._is_stopped:
            readable, _, _ = select.select([self._descriptor], [], [], _LOOK_ROUND_S)
            if not readable:
                continue
            data = os.read(self._descriptor, _READ_BYTES)
            *complete, rest = data.split(b"\n")
            for piece in complete:
                yield None if is_too_long else bytes(pending) + piece
                pending, is_too_long = bytearray(), False
            pending += rest
            if len(pending) > self._max_line_bytes:
                pending, is_too_long = bytearray(), True
            if not data:
                if pending or is_too_long:
                    yield None if is_too_long else bytes(pending)
                return

    def _arrival(self, number: int, line: bytes | None) -> Arrival:
        now_s = time.monotonic()
        if line is None:
            return self._bad(number, b"", f"more than {self._max_line_bytes:,} bytes")
        try:
            name, encoded = _parsed(line)
            if encoded is not None:
                data = base64.b64decode(encoded, validate=True)
                digest = hashlib.sha256(data).hexdigest()
                return Arrival(legible(name), digest, lambda: digest, lambda: data, now_s)
            address = resolve(self._folder, name)
        except StorageError as error:
            return self._bad(number, line, error.what)
        except binascii.Error as error:
            return self._bad(number, line, f"no base64: {error}")
        except (ValueError, RecursionError):
            return self._bad(number, line, ascii(line[:_MAX_EXAMPLE_BYTES])[1:])
        (fetch,) = self._files.read([PictureRef(address)])
        identify = functools.partial(identity_of, address)
        return Arrival(legible(address), None, identify, fetch, now_s)

    def _bad(self, number: int, line: bytes, got: str) -> Arrival:
        image_uri = f"{self.uri}#line={number}"
        digest = hashlib.sha256(line).hexdigest()

        def fetch() -> Content:
            raise ImageError(
                "The line names no picture",
                kind="unreadable",
                where=image_uri,
                got=got,
                expected='{"image_uri": URI}, perhaps with "image_in_base64", or "URI"',
            )

        return Arrival(image_uri, digest, lambda: digest, fetch, time.monotonic())


def _parsed(line: bytes) -> tuple[str, str | None]:
    """The name of a picture, and the picture itself if the line brings it.

    Raises:
        ValueError, RecursionError: It is no such line.
    """
    document: Any = json.loads(line)
    if isinstance(document, str):
        document = {"image_uri": document}
    if not isinstance(document, dict):
        raise ValueError("no object")
    name, encoded = document.get("image_uri"), document.get("image_in_base64")
    if not isinstance(name, str) or not name or not isinstance(encoded, str | None):
        raise ValueError("other values")
    return name, encoded

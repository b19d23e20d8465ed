"""From a picture that has come to one that can be scored, or the reason why nothing can be said of it yet."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from appliance.bulk.inputs.containers import Content, Frame
from appliance.bulk.inputs.retries import DELAYS_S, unread, with_retries
from appliance.bulk.stream.ledger import Ledger, key_of
from appliance.bulk.stream.sources.arrivals import Arrival, NotYet, Source
from appliance.errors import ImageError, StorageError
from appliance.images.decoding import decoded_bytes
from appliance.records import Record
from appliance.scoring import DecodedUpload, ImageScorer

T = TypeVar("T")

_READS_OF_WHAT_CHANGES = 3
_MAYBE_INCOMPLETE = ("empty", "unreadable")
# What could not be looked at has no identity. Named again, it is looked at again.
_UNKNOWN = "unknown"


@dataclass(frozen=True, eq=False)
class Fetched:
    """A picture that was read, or why it could not be.

    Attributes:
        arrival: What it came as.
        identity: Of what was read.
        content: It.
        memory_bytes: About what it needs with its pixels.
    """

    arrival: Arrival
    identity: str
    content: Content | ImageError
    memory_bytes: int = 0


@dataclass(frozen=True, eq=False)
class Ready:
    """A picture that can be scored, or the record that says why it cannot.

    Attributes:
        arrival: What it came as.
        identity: Of what was read.
        item: It.
        memory_bytes: What is held for it.
    """

    arrival: Arrival
    identity: str
    item: DecodedUpload | Record
    memory_bytes: int

    @property
    def key(self) -> bytes:
        """What the ledger knows it by."""
        return key_of(self.arrival.image_uri, self.identity)


class PictureReader:
    """Reads and decodes; safe to use from many threads.

    Args:
        scorer: Decodes, and makes the records of errors.
        ledger: Knows what need not be read.
        source: What the pictures come from. What it will give again is not given up because a store
            does not answer.
    """

    def __init__(self, scorer: ImageScorer, ledger: Ledger, source: Source) -> None:
        self._scorer = scorer
        self._ledger = ledger
        self._is_lasting = source.is_lasting

    def fetch(self, arrival: Arrival) -> Fetched | NotYet | Literal["known"]:
        """Reads a picture so that what was read and its identity belong together.

        Raises:
            StorageError: The ledger cannot be read.
        """
        try:
            identity = arrival.identity or self._patiently(arrival.identify)
        except StorageError as error:
            return Fetched(arrival, _UNKNOWN, _named(unread(error), arrival))
        if identity is None:
            return self._fetch_unseen(arrival)
        if arrival.identity is None and self._ledger.scored([key_of(arrival.image_uri, identity)]):
            return "known"
        for _ in range(1 if self._is_lasting else _READS_OF_WHAT_CHANGES):
            content = self._content(arrival)
            try:
                after = self._patiently(arrival.identify)
            except StorageError as error:
                content, after = unread(error), identity
            if after is None and isinstance(content, ImageError) and self._is_lasting:
                return "gone"
            # What was read whole and removed since is as good as any.
            if after in (identity, None):
                break
            if self._is_lasting:
                return "changed"
            identity = after
        if isinstance(content, ImageError):
            if content.kind == "unreachable":
                if self._is_lasting:
                    return "unreachable"
                identity = _UNKNOWN
            return Fetched(arrival, identity, _named(content, arrival))
        return Fetched(arrival, identity, content, self._needed_bytes(content))

    def decode(self, fetched: Fetched) -> Ready | NotYet:
        """Decodes what was read; says "undecodable" of what may not be complete."""
        arrival, content = fetched.arrival, fetched.content
        item: DecodedUpload | Record
        if isinstance(content, Frame):
            item = DecodedUpload(content.image, arrival.image_uri, content.content_sha256)
        else:
            item = self._scorer.decode_item((arrival.image_uri, content))
        is_young = time.monotonic() < arrival.young_until_s
        if is_young and isinstance(item, Record) and item.error_kind in _MAYBE_INCOMPLETE:
            return "undecodable"
        return Ready(arrival, fetched.identity, item, fetched.memory_bytes)

    def _fetch_unseen(self, arrival: Arrival) -> Fetched | Literal["known"]:
        """Reads what cannot be looked at before, as from some web servers; its bytes are its identity."""
        content = self._content(arrival)
        if isinstance(content, ImageError):
            return Fetched(arrival, content.kind, _named(content, arrival))
        assert isinstance(content, bytes)  # noqa: S101 - frames have an identity beforehand
        identity = hashlib.sha256(content).hexdigest()
        if self._ledger.scored([key_of(arrival.image_uri, identity)]):
            return "known"
        return Fetched(arrival, identity, content, self._needed_bytes(content))

    def _content(self, arrival: Arrival) -> Content | ImageError:
        try:
            return self._patiently(arrival.fetch)
        except ImageError as error:
            return error
        except StorageError as error:
            return unread(error)

    def _patiently(self, ask: Callable[[], T]) -> T:
        return with_retries(ask, () if self._is_lasting else DELAYS_S)

    def _needed_bytes(self, content: Content) -> int:
        if isinstance(content, Frame):
            return content.image.pixels.nbytes
        return len(content) + decoded_bytes(content, self._scorer.min_shorter_side_px)


def _named(error: ImageError, arrival: Arrival) -> ImageError:
    """With the name that the record gives the picture: that of its file may not be text."""
    error.where = arrival.image_uri
    return error

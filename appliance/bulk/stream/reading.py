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
from appliance.bulk.stream.sources.identities import is_weak
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
        if arrival.identity is None:
            return self._fetch_named(arrival)
        content = self._content(arrival)
        try:
            after = self._patiently(arrival.identify)
        except StorageError as error:
            content, after = unread(error), arrival.identity
        if self._is_lasting:
            if after not in (arrival.identity, None):
                return "changed"
            # What was read whole and removed since is as good as any.
            if isinstance(content, ImageError) and after is None:
                return "gone"
            if isinstance(content, ImageError) and content.kind == "unreachable":
                return "unreachable"
        return self._fetched(arrival, arrival.identity, content)

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

    def _fetch_named(self, arrival: Arrival) -> Fetched | Literal["known"]:
        """Finds out the identity of a picture that was only named, and reads it if need be."""
        try:
            identity = self._patiently(arrival.identify)
        except StorageError as error:
            return self._fetched(arrival, _UNKNOWN, unread(error))
        if identity is None or is_weak(identity):
            # As on the web: what does not tell when it changed is known by its bytes.
            content = self._content(arrival)
            identity = hashlib.sha256(content).hexdigest() if isinstance(content, bytes) else ""
            is_known = identity and self._is_known(arrival, identity)
            return "known" if is_known else self._fetched(arrival, identity, content)
        if self._is_known(arrival, identity):
            return "known"
        for _ in range(_READS_OF_WHAT_CHANGES):
            content = self._content(arrival)
            try:
                after = self._patiently(arrival.identify)
            except StorageError as error:
                content, after = unread(error), None
            if after is None or after == identity:
                break
            identity = after
        return self._fetched(arrival, identity, content)

    def _is_known(self, arrival: Arrival, identity: str) -> bool:
        return bool(self._ledger.scored([key_of(arrival.image_uri, identity)]))

    def _fetched(self, arrival: Arrival, identity: str, content: Content | ImageError) -> Fetched:
        if not isinstance(content, ImageError):
            return Fetched(arrival, identity, content, self._needed_bytes(content))
        # With the name that the record gives the picture: that of its file may not be text.
        content.where = arrival.image_uri
        is_unreachable = content.kind == "unreachable"
        return Fetched(arrival, _UNKNOWN if is_unreachable else identity or content.kind, content)

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

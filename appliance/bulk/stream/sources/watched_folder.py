"""A folder or prefix into which pictures keep coming, looked at again and again.

A file is taken when it has not changed for the settle time, by what is seen of it here and by this process's
own monotonic clock. Whoever writes it may be slow, die in between, or have a clock of any time. A file that
cannot be decoded then may have been left half written for longer: it is tried again until it is that much older.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

from appliance import storage
from appliance.bulk.inputs.containers import Files
from appliance.bulk.inputs.listing import PictureRef
from appliance.bulk.inputs.patterns import NameFilter
from appliance.bulk.stream.ledger import Ledger, key_of
from appliance.bulk.stream.sources.arrivals import Arrival, NotYet, Source, Waiting, legible
from appliance.bulk.stream.sources.identities import identity_of, scan
from appliance.errors import StorageError
from appliance.images.decoding import EXTENSIONS

logger = logging.getLogger(__name__)

_LOOKED_UP_AT_ONCE = 500
_MAX_KNOWN = 10_000
"""Pictures that are remembered between two looks. Those beyond are found anew when these are done."""
_YOUNG = 5
"""A file that cannot be decoded gets its error row when it has not changed for so many settle times."""
_REST = 4
"""A look that took long is followed by a rest of so many times its length."""


@dataclass(eq=False)
class _Seen:
    """A picture that is not in the ledger; times are monotonic seconds.

    Attributes:
        uri: Its name in the scores.
        address: Where it is read.
        identity: Of its content.
        first_s: When it was first seen.
        since_s: Since when it has not changed.
        look: Number of the last look that saw it.
        not_before_s: When it may be taken at the earliest.
        is_taken: Whether it is being read or scored.
    """

    uri: str
    address: str
    identity: str
    first_s: float
    since_s: float
    look: int
    not_before_s: float = 0.0
    is_taken: bool = False


@dataclass
class _Look:
    """One look at the whole folder: its number, files not looked up yet, and how many were too many."""

    number: int
    files: list[tuple[str, str, str]] = field(default_factory=list)
    beyond: int = 0


class WatchedFolder(Source):
    """The pictures of a folder.

    Args:
        uri: A local folder or a prefix, absolute.
        ledger: Knows those that have been scored.
        names: Which are wanted, by their paths below it.
        max_bytes: Larger files are not read.
        settle_s: A file must not have changed for so long.
        poll_s: Between two looks.
        once: End when what was there at the first look is done.
    """

    def __init__(
        self,
        uri: str,
        ledger: Ledger,
        *,
        names: NameFilter = NameFilter(),
        max_bytes: int,
        settle_s: float,
        poll_s: float,
        once: bool = False,
    ) -> None:
        self.uri = uri
        self.in_store = storage.is_remote(uri)
        self.is_lasting, self.is_live = True, False
        self.dropped = 0
        self._ledger = ledger
        self._names = names
        self._files = Files(max_bytes)
        self._settle_s, self._poll_s, self._once = settle_s, poll_s, once
        self._is_stopped = False
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        self._taken: dict[Arrival, _Seen] = {}
        self._beyond = 0
        self._has_seen_all = False

    def stop(self) -> None:
        """Asks for the end."""
        self._is_stopped = True
        self._wake.set()

    def arrivals(self) -> Iterator[Arrival]:
        """The pictures that have settled, those first that have waited longest."""
        number = 0
        while not self._is_stopped:
            number += 1
            started_s = time.monotonic()
            self._look_round(number)
            pause_s = max(self._poll_s, _REST * (time.monotonic() - started_s))
            for seen in self._settled():
                if self._is_stopped:
                    return
                yield self._arrival(seen)
                if time.monotonic() - started_s > pause_s:
                    break  # so that what is known of the folder stays true while it is worked off
            if self._once and self._has_seen_all and not self.waiting().pictures:
                return
            self._wake.wait(self._until_next_s(started_s + pause_s))
            self._wake.clear()

    def done(self, arrival: Arrival) -> None:
        """Forgets it; from here on the ledger knows it."""
        with self._lock:
            seen = self._taken.pop(arrival)
            if self._seen.get(seen.uri) is seen:
                del self._seen[seen.uri]
            if self._once and not self._seen:
                self._wake.set()

    def put_back(self, arrival: Arrival, why: NotYet) -> None:
        """Gives it again later; one that has changed settles anew first."""
        now_s = time.monotonic()
        with self._lock:
            seen = self._taken.pop(arrival)
            seen.is_taken = False
            seen.not_before_s = now_s + self._poll_s
            if why == "changed":
                seen.since_s = now_s
            if self._seen.get(seen.uri) is seen and (
                why == "gone" or (why == "unreachable" and self._once)
            ):
                del self._seen[seen.uri]
            if self._once and why == "unreachable":
                logger.warning("left for another run, since it cannot be read: %s", seen.uri)

    def waiting(self) -> Waiting:
        """All that are not in the ledger, settled or not."""
        now_s = time.monotonic()
        with self._lock:
            known = {*self._seen.values(), *self._taken.values()}
        oldest_s = max((now_s - seen.first_s for seen in known), default=0.0)
        return Waiting(len(known) + self._beyond, oldest_s)

    def _look_round(self, number: int) -> None:
        look = _Look(number)
        try:
            for path, address, identity in scan(self.uri, EXTENSIONS):
                if self._is_stopped:
                    return
                if self._names.keeps_all or self._names.keeps(path):
                    look.files.append((legible(address), address, identity))
                if len(look.files) == _LOOKED_UP_AT_ONCE:
                    self._note(look)
            self._note(look)
        except StorageError as error:
            if number == 1 or self._once:
                raise
            logger.warning("looking again later: %s", error)
            return
        with self._lock:
            for seen in list(self._seen.values()):
                if seen.look != number and not seen.is_taken:
                    del self._seen[seen.uri]  # it went before it was taken
        self._beyond = look.beyond
        self._has_seen_all = self._has_seen_all or not look.beyond

    def _note(self, look: _Look) -> None:
        """Remembers those files that are neither known here nor in the ledger."""
        now_s = time.monotonic()
        unknown: dict[bytes, tuple[str, str, str]] = {}
        with self._lock:
            # Before the ledger is asked: a picture that is done meanwhile is in one of the two at any time.
            taken = {(seen.uri, seen.identity) for seen in self._taken.values()}
            for uri, address, identity in look.files:
                seen = self._seen.get(uri)
                if seen is not None and seen.identity == identity:
                    seen.look = look.number
                elif (uri, identity) not in taken:
                    unknown[key_of(uri, identity)] = (uri, address, identity)
        look.files.clear()
        scored = self._ledger.scored(list(unknown))
        with self._lock:
            for key, (uri, address, identity) in unknown.items():
                if key not in scored:
                    self._note_new(look, uri, address, identity, now_s)

    def _note_new(self, look: _Look, uri: str, address: str, identity: str, now_s: float) -> None:
        before = self._seen.get(uri)
        first_s = now_s if before is None or before.is_taken else before.first_s
        if before is None and self._once and self._has_seen_all:
            return  # it came after the first look
        if before is None and len(self._seen) >= _MAX_KNOWN:
            look.beyond += 1
            return
        if self._once and now_s - first_s > _YOUNG * self._settle_s + self._poll_s:
            logger.warning("left for another run, since it keeps changing: %s", uri)
            self._seen.pop(uri)
            return
        self._seen[uri] = _Seen(uri, address, identity, first_s, now_s, look.number)

    def _settled(self) -> list[_Seen]:
        now_s = time.monotonic()
        with self._lock:
            found = [
                seen
                for seen in self._seen.values()
                if not seen.is_taken
                and now_s >= max(seen.since_s + self._settle_s, seen.not_before_s)
            ]
        return sorted(found, key=lambda seen: (seen.first_s, seen.uri))

    def _until_next_s(self, next_look_s: float) -> float:
        """How long to wait; a single run looks as soon as something may have settled."""
        now_s = time.monotonic()
        if self._once:
            with self._lock:
                ripe_s = [
                    max(seen.since_s + self._settle_s, seen.not_before_s)
                    for seen in self._seen.values()
                    if not seen.is_taken
                ]
            next_look_s = min([next_look_s, *ripe_s])
        return max(0.0, next_look_s - now_s)

    def _arrival(self, seen: _Seen) -> Arrival:
        (fetch,) = self._files.read([PictureRef(seen.address)])
        arrival = Arrival(
            seen.uri,
            seen.identity,
            partial(identity_of, seen.address),
            fetch,
            came_s=seen.first_s,
            young_until_s=seen.since_s + _YOUNG * self._settle_s,
        )
        with self._lock:
            seen.is_taken = True
            self._taken[arrival] = seen
        return arrival

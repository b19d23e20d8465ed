"""What a source of pictures is to the rest: something that gives one picture after another, in a thread of its own."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from appliance.bulk.inputs.containers import Fetch

NotYet = Literal["changed", "gone", "undecodable", "unreachable"]
"""Why nothing can be recorded of a picture for now: it was written to meanwhile, is not there any more, cannot
be decoded but may not be complete, or could not be fetched."""


@dataclass(frozen=True, eq=False)
class Arrival:
    """A picture that has come.

    Attributes:
        image_uri: Its name in the scores.
        identity: What tells this content from an earlier or later one of the same name; None where it is
            found out with `identify` on reading.
        identify: What the identity is now; None if the picture is gone. May raise StorageError.
        fetch: Reads it.
        came_s: When it came, monotonic seconds.
        young_until_s: Until then it may be that it is not complete, monotonic seconds.
    """

    image_uri: str
    identity: str | None
    identify: Callable[[], str | None]
    fetch: Fetch
    came_s: float
    young_until_s: float = -math.inf


def legible(name: str) -> str:
    """A name as it can stand in a record: bytes of it that are no UTF-8 become escapes."""
    return name.encode(errors="backslashreplace").decode()


@dataclass(frozen=True)
class Waiting:
    """What a source knows of and has not been told is done.

    Attributes:
        pictures: How many.
        oldest_s: Age of the oldest, seconds since it was first seen.
    """

    pictures: int = 0
    oldest_s: float = 0.0


class Source(Protocol):
    """Where pictures come from. `arrivals` runs in one thread, the others are called from any.

    Attributes:
        uri: Without passwords.
        in_store: Whether reading a picture waits for a network.
        is_lasting: Whether what is not recorded is found again by the next run.
        is_live: Whether its pictures pass by and never come twice, so that nobody need remember them.
        dropped: Pictures that were given up, because they came faster than they could be scored.
    """

    uri: str
    in_store: bool
    is_lasting: bool
    is_live: bool
    dropped: int

    def arrivals(self) -> Iterator[Arrival]:
        """The pictures as they come; ends when there will be no more, or soon after `stop`.

        Raises:
            StorageError: The source cannot be read.
        """
        ...

    def stop(self) -> None:
        """Asks for the end."""
        ...

    def done(self, arrival: Arrival) -> None:
        """The picture is in the ledger, or was there before."""
        ...

    def put_back(self, arrival: Arrival, why: NotYet) -> None:
        """Nothing was recorded of the picture."""
        ...

    def waiting(self) -> Waiting:
        """What has not been told done, of which it knows."""
        ...

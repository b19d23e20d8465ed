"""The trainer of a service: begin, list, follow and cancel trainings. It wants an admin key."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import quote

from appliance.client.answers import Answer, foreign, known_fields
from appliance.client.connection import ServiceConnection
from appliance.client.requests import JSON_TYPE, Request, json_body

Result = TypeVar("Result")

POLL_S = 1.0
_PATH = "/v1/train"
_ENDED = ("succeeded", "failed", "cancelled")


@dataclass(frozen=True)
class TrainingInfo:
    """A training; what only its log tells is None in a list.

    Attributes:
        id: By which it is asked for.
        status: "pending", "running", "succeeded", "failed" or "cancelled".
        by: Name of the key that asked for it.
        request: What was asked for.
        started_at: ISO time, UTC.
        ended_at: Likewise; None while it runs.
        says: The last line of its log.
        error: The sentence with which it failed.
        registered: The new version, such as `fridge:8`.
        promotion: Whether that was promoted, and both figures.
    """

    id: str
    status: str
    by: str
    request: Mapping[str, Any]
    started_at: str | None = None
    ended_at: str | None = None
    says: str | None = None
    error: str | None = None
    registered: str | None = None
    promotion: Mapping[str, Any] | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing comes any more."""
        return self.status in _ENDED


@dataclass(frozen=True)
class LogPart:
    """Some of a log.

    Attributes:
        text: It.
        next_offset: Where the next part begins.
        is_last: Whether the training has ended, and this was all.
    """

    text: str
    next_offset: int
    is_last: bool


class AsyncTrainings:
    """The trainings of a service, for asyncio; belongs to an `AsyncClient`.

    Every call raises ServiceCallError when the service cannot be reached, does not train, wants another key, or
    refuses what it is asked.
    """

    def __init__(self, connection: ServiceConnection) -> None:
        self._connection = connection

    async def submit(self, data: str, register: str, **options: Any) -> TrainingInfo:
        """Begins a training; is never tried again by itself, since it might have begun.

        Args:
            data: Annotated pictures: an absolute path or an address that every node of the service's cluster sees.
            register: The model that gets one more version.
            **options: `init`, `settings`, `validation`, `format`, `images`, `workers`, `gpu`, `check`, `promote`,
                `test`, `min_gain`: as `POST /v1/train` takes them.
        """
        body = json_body({"data": data, "register": register, **options})
        request = Request("a training", _PATH, "POST", body, JSON_TYPE)
        deadline = self._connection.deadline(None)
        return _training_of(await self._connection.answer_once(request, deadline))

    async def list(self) -> list[TrainingInfo]:
        """All that the cluster remembers, the newest first."""
        answer = await self._answer(Request("its trainings", _PATH))
        try:
            return [_known(row) for row in json.loads(answer.body)["trainings"]]
        except (ValueError, TypeError, KeyError):
            raise foreign(answer) from None

    async def get(self, training_id: str) -> TrainingInfo:
        """One of them."""
        return _training_of(await self._answer(Request(training_id, _path(training_id))))

    async def cancel(self, training_id: str) -> TrainingInfo:
        """Ends a training, which saves its last step; one that has ended stays as it is."""
        return _training_of(await self._answer(Request(training_id, _path(training_id), "DELETE")))

    async def log(self, training_id: str, offset: int = 0) -> LogPart:
        """What a training has written, from so many characters on."""
        path = f"{_path(training_id)}/logs?offset={offset}"
        answer = await self._answer(Request(training_id, path))
        try:
            following = int(answer.headers["X-Next-Offset"])
            is_last = answer.headers["X-Log-Complete"] == "true"
        except (ValueError, KeyError):
            raise foreign(answer) from None
        return LogPart(answer.body.decode(errors="replace"), following, is_last)

    async def follow(self, training_id: str, *, poll_s: float = POLL_S) -> AsyncGenerator[str]:
        """What a training writes, in pieces, until it has ended.

        Args:
            training_id: Which.
            poll_s: How often to ask, seconds.
        """
        offset = 0
        while True:
            part = await self.log(training_id, offset)
            offset = part.next_offset
            if part.text:
                yield part.text
            if part.is_last:
                return
            await asyncio.sleep(poll_s)

    async def _answer(self, request: Request) -> Answer:
        return await self._connection.answer(request, self._connection.deadline(None))


Question = Callable[[AsyncTrainings], Coroutine[Any, Any, Any]]


class Trainings:
    """The same for threads and notebooks; belongs to a `Client`.

    Args:
        run: Asks in the client's own event loop, and waits for the answer.
    """

    def __init__(self, run: Callable[[Question], Any]) -> None:
        self._run = run

    def submit(self, data: str, register: str, **options: Any) -> TrainingInfo:
        """Begins a training: see `AsyncTrainings.submit`."""
        training: TrainingInfo = self._run(lambda asked: asked.submit(data, register, **options))
        return training

    def list(self) -> list[TrainingInfo]:
        """All that the cluster remembers, the newest first."""
        trainings: list[TrainingInfo] = self._run(lambda asked: asked.list())
        return trainings

    def get(self, training_id: str) -> TrainingInfo:
        """One of them."""
        training: TrainingInfo = self._run(lambda asked: asked.get(training_id))
        return training

    def cancel(self, training_id: str) -> TrainingInfo:
        """Ends a training: see `AsyncTrainings.cancel`."""
        training: TrainingInfo = self._run(lambda asked: asked.cancel(training_id))
        return training

    def log(self, training_id: str, offset: int = 0) -> LogPart:
        """What a training has written, from so many characters on."""
        part: LogPart = self._run(lambda asked: asked.log(training_id, offset))
        return part

    def follow(self, training_id: str, *, poll_s: float = POLL_S) -> Iterator[str]:
        """What a training writes, in pieces, until it has ended: see `AsyncTrainings.follow`."""
        offset = 0
        while True:
            part = self.log(training_id, offset)
            offset = part.next_offset
            if part.text:
                yield part.text
            if part.is_last:
                return
            time.sleep(poll_s)


def _path(training_id: str) -> str:
    return f"{_PATH}/{quote(training_id, safe='')}"


def _training_of(answer: Answer) -> TrainingInfo:
    try:
        return _known(json.loads(answer.body))
    except (ValueError, TypeError, KeyError):
        raise foreign(answer) from None


def _known(row: Mapping[str, Any]) -> TrainingInfo:
    return TrainingInfo(**known_fields(TrainingInfo, row))

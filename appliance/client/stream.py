"""Pictures in one request of any length, records out as they are ready.

What is sent and not answered is kept: a connection that breaks, or that the service gives up because nothing
came for a while, is opened again, and those pictures are sent again. Each still gets one record.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from appliance.client.answers import (
    Answer,
    accepted,
    failed_record,
    foreign,
    record_of_row,
    refusal,
)
from appliance.client.connection import ServiceConnection
from appliance.client.items import Item, OnError, checked, named
from appliance.client.pictures import ReadyPicture
from appliance.client.requests import STREAM_TYPE, stream_line, stream_path
from appliance.errors import (
    ApplianceError,
    ConfigError,
    ServiceCallError,
    ServiceTimeoutError,
    ServiceUnreachableError,
)

if TYPE_CHECKING:
    from aiohttp import ClientResponse

    from appliance.records import Record

IndexedRecord: TypeAlias = "tuple[int, Record]"
_MAX_LINE_BYTES = 64 * 2**20
_SHOWN_BYTES = 10_000
_IDLE = "stream_idle"


class DetectionStream:
    """One stream of pictures; belongs to one event loop.

    The caller adds pictures, never more than `in_flight` of which it has not taken the results.

    Args:
        connection: To the service.
        in_flight: Pictures that are sent ahead.
        on_error: As `ItemScoring` has it.
        timeout_s: Longest wait for the next answer while there are pictures without one.
        options: As they stand in a query.

    Raises:
        ConfigError: One of them is wrong.
    """

    def __init__(
        self,
        connection: ServiceConnection,
        *,
        in_flight: int,
        on_error: OnError,
        timeout_s: float | None,
        options: Mapping[str, Any],
    ) -> None:
        if in_flight < 1:
            raise ConfigError("in_flight is out of range", got=in_flight, expected="1 or more")
        self._connection = connection
        self._path = stream_path(options)
        self._on_error = checked(on_error)
        self._timeout_s = connection.deadline(timeout_s).timeout_s
        self._unanswered: dict[int, bytes] = {}
        self._to_send: deque[int] = deque()
        self._changed = asyncio.Event()
        self._ended = self._progress = False
        self._limit: asyncio.Timeout | None = None
        self._results: asyncio.Queue[IndexedRecord | BaseException | None] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def add(self, index: int, item: Item) -> None:
        """Sends one more picture, as soon as it is read.

        Raises:
            ApplianceError: With `on_error="raise"`, it cannot be read.
        """
        name, picture = named(index, item)
        try:
            deadline = self._connection.deadline(self._timeout_s)
            ready = await self._connection.ready_picture(picture, name, deadline)
            line = await asyncio.to_thread(stream_line, ready)
        except ApplianceError as error:
            if self._on_error == "raise":
                raise
            self._results.put_nowait((index, failed_record(error, ReadyPicture(name))))
            return
        self._unanswered[index] = line
        self._to_send.append(index)
        if len(self._unanswered) == 1:
            self._wait_from_now()
        if self._task is None:
            self._task = asyncio.create_task(self._run())
            self._task.add_done_callback(self.report_failure)
        self._changed.set()

    async def end(self) -> None:
        """No more pictures come."""
        self._ended = True
        self._changed.set()
        if self._task is None:
            self._results.put_nowait(None)

    def report_failure(self, task: asyncio.Task[None]) -> None:
        """Lets whoever takes results know that a task has failed without which no more can come."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._results.put_nowait(error)

    async def take(self, *, wait: bool = True) -> IndexedRecord | None:
        """The next result; None when there are no more, or without waiting, none now.

        Raises:
            ApplianceError: The stream cannot go on.
            Exception: What the sender of the pictures has raised.
        """
        if not wait and self._results.empty():
            return None
        result = await self._results.get()
        if isinstance(result, BaseException):
            raise result
        return result

    async def close(self) -> None:
        """Ends the connection, whatever is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        attempt = 1
        while True:
            while not self._unanswered and not self._ended:
                await self._change()
            if not self._unanswered:
                self._results.put_nowait(None)
                return
            self._to_send = deque(self._unanswered)
            self._progress = False
            try:
                await self._exchange()
            except ApplianceError as error:
                attempt = 1 if self._progress else attempt
                if not self._unanswered:
                    continue
                wait_s = None
                if isinstance(error, ServiceCallError):
                    error.attempts = attempt
                    wait_s = self._connection.policy.wait_s(error, attempt, self._timeout_s)
                if wait_s is None:
                    self._results.put_nowait(error)
                    return
                await asyncio.sleep(wait_s)
                attempt += 1

    async def _exchange(self) -> None:
        """One connection, until its end."""
        sent: list[int] = []
        try:
            async with asyncio.timeout(None) as self._limit:
                self._wait_from_now()
                transport = self._connection.transport()
                lines = self._lines(sent)
                async with transport.open_stream(self._path, lines, STREAM_TYPE) as response:
                    await self._read(response, sent)
        except TimeoutError:
            raise ServiceTimeoutError(
                "The service has not answered in time",
                where="a picture of a stream",
                expected=f"an answer within {self._timeout_s:.3g} s",
                hint="Give it more time with timeout_s, or send smaller pictures",
            ) from None
        finally:
            self._limit = None

    async def _lines(self, sent: list[int]) -> AsyncGenerator[bytes]:
        while True:
            while not self._to_send:
                if self._ended:
                    return
                await self._change()
            sent.append(self._to_send.popleft())
            yield self._unanswered[sent[-1]]

    async def _read(self, response: ClientResponse, sent: list[int]) -> None:
        url = str(response.url)
        answer = Answer(response.status, response.headers, b"", url)
        if not opened_as_stream(response):
            body = await response.content.read(_SHOWN_BYTES)
            accepted(Answer(response.status, response.headers, body, url), "a stream")
            raise foreign(Answer(response.status, response.headers, body, url))
        async for line in _lines_of(response):
            try:
                row = json.loads(line)
                told = row["error"] if "index" not in row else None
                if told is None:
                    index = sent[row["index"]]
                    record = record_of_row(row)
            except (ValueError, TypeError, KeyError, IndexError):
                raise foreign(Answer(response.status, response.headers, line, url)) from None
            if told is not None:
                refused = refusal(told, "a stream", answer)
                refused.transient = refused.code == _IDLE
                raise refused
            if self._unanswered.pop(index, None) is not None:
                self._results.put_nowait((index, record))
            self._progress = True
            self._wait_from_now()
        if self._unanswered:
            raise ServiceUnreachableError(
                "The service has ended the stream early",
                where=self._connection.address.base_url,
                transient=True,
            )

    def _wait_from_now(self) -> None:
        if self._limit is not None:
            now_s = asyncio.get_running_loop().time()
            self._limit.reschedule(now_s + self._timeout_s if self._unanswered else None)

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()


def opened_as_stream(response: ClientResponse) -> bool:
    """Whether it is the service's own stream that comes."""
    return response.status == 200 and response.content_type == STREAM_TYPE


async def _lines_of(response: ClientResponse) -> AsyncIterator[bytes]:
    rest = bytearray()
    async for chunk in response.content.iter_any():
        rest += chunk
        if b"\n" in chunk:
            *lines, rest = rest.split(b"\n")
            for line in lines:
                yield bytes(line)
        if len(rest) > _MAX_LINE_BYTES:
            rest = rest[:_SHOWN_BYTES]
            break
    if rest.strip():
        yield bytes(rest)

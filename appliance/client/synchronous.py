"""The client for everybody else: the same as `AsyncClient`, driven from a thread of its own."""

from __future__ import annotations

import os
import ssl
import threading
import weakref
from collections.abc import Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, TypeVar, Unpack

from appliance.client.answers import ModelInfo
from appliance.client.asynchronous import AsyncClient
from appliance.client.event_loop import EventLoopThread, result_of
from appliance.client.items import Item, OnError
from appliance.client.many import results_sync, window_of
from appliance.client.pictures import Picture
from appliance.client.requests import DetectOptions
from appliance.client.stream import DetectionStream, IndexedRecord
from appliance.client.trainings import Trainings
from appliance.errors import ServiceError

if TYPE_CHECKING:
    from appliance.records import Record

Result = TypeVar("Result")


class Client:
    """Asks one service; for any number of threads at once, also where an event loop runs, as in notebooks.

    A process that was forked may go on using the client: it opens connections of its own.

    Args:
        url: Of the service, such as `http://127.0.0.1:8000`.
        key: Sent as `Authorization: Bearer`; None takes the variable `APPLIANCE_KEY`.
        timeout_s: Time for each picture, reading and all attempts together; the service is told what is left.
        max_attempts: How often a picture is tried; 1 never tries again.
        ssl_context: Which authorities to trust; None takes the system's.

    Raises:
        ServiceError: `url` is no address of a service.
        ConfigError: Another argument is out of range.
    """

    def __init__(
        self,
        url: str,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        max_attempts: int = 5,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        def make() -> AsyncClient:
            return AsyncClient(
                url,
                key=key,
                timeout_s=timeout_s,
                max_attempts=max_attempts,
                ssl_context=ssl_context,
            )

        self._make = make
        self._shown = repr(make()).replace("AsyncClient", type(self).__name__, 1)
        self._lock = threading.Lock()
        self._running: _Running | None = None
        self._closed = False
        _clients.add(self)

    def __repr__(self) -> str:
        return self._shown

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections; whoever still waits for an answer gets an error."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, None
        if running is not None:
            running.close()

    def detect(
        self,
        picture: Picture,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[DetectOptions],
    ) -> Record:
        """The record of one picture: see `AsyncClient.detect`."""
        client = self._started().client
        return self._run(client.detect(picture, name=name, timeout_s=timeout_s, **options))

    def annotated(
        self,
        picture: Picture,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[DetectOptions],
    ) -> bytes:
        """The picture with its detections drawn into it, as JPEG: see `AsyncClient.annotated`."""
        client = self._started().client
        return self._run(client.annotated(picture, name=name, timeout_s=timeout_s, **options))

    def detect_many(
        self,
        pictures: Iterable[Item],
        *,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: OnError = "record",
        timeout_s: float | None = None,
        **options: Unpack[DetectOptions],
    ) -> Iterator[Record]:
        """Exactly one record a picture: see `AsyncClient.detect_many`. The pictures are asked for in this thread."""
        running = self._started()
        window = window_of(concurrency, ordered=ordered)
        work = running.client.item_scoring(concurrency, on_error, timeout_s, options)
        return results_sync(
            pictures,
            lambda index, item: running.loop.submit(work(index, item)),
            window=window,
            ordered=ordered,
        )

    def stream(
        self,
        pictures: Iterable[Item],
        *,
        in_flight: int = 16,
        on_error: OnError = "record",
        timeout_s: float | None = None,
        **options: Unpack[DetectOptions],
    ) -> Iterator[IndexedRecord]:
        """One request for any number of pictures: see `AsyncClient.stream`. They are asked for in this thread."""
        client = self._started().client
        stream = client.detection_stream(in_flight, on_error, timeout_s, options)
        return self._streamed(stream, pictures, in_flight)

    def _streamed(
        self, stream: DetectionStream, pictures: Iterable[Item], in_flight: int
    ) -> Iterator[IndexedRecord]:
        untaken = 0
        try:
            for index, item in enumerate(pictures):
                self._run(stream.add(index, item))
                untaken += 1
                while (result := self._run(stream.take(wait=untaken >= in_flight))) is not None:
                    untaken -= 1
                    yield result
            self._run(stream.end())
            while (result := self._run(stream.take())) is not None:
                yield result
        finally:
            if not self._closed:
                self._run(stream.close())

    def score_compat(
        self,
        picture: Picture,
        *,
        image_resize_dims: Sequence[int] | None = None,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """One picture through `POST /score` of the 2018 package: see `AsyncClient.score_compat`."""
        client = self._started().client
        return self._run(
            client.score_compat(
                picture,
                image_resize_dims=image_resize_dims,
                parameters=parameters,
                timeout_s=timeout_s,
            )
        )

    def models(self, *, timeout_s: float | None = None) -> tuple[ModelInfo, ...]:
        """The models of the service, the default first: see `AsyncClient.models`."""
        return self._run(self._started().client.models(timeout_s=timeout_s))

    @property
    def trainings(self) -> Trainings:
        """The trainer of the service, where that has one: see `AsyncClient.trainings`."""
        return Trainings(lambda ask: self._run(ask(self._started().client.trainings)))

    def ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the service and its model answer: see `AsyncClient.ready`."""
        return self._run(self._started().client.ready(timeout_s=timeout_s))

    def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Returns as soon as the service is ready: see `AsyncClient.wait_until_ready`."""
        self._run(self._started().client.wait_until_ready(timeout_s))

    def _run(self, coroutine: Coroutine[Any, Any, Result]) -> Result:
        return result_of(self._started().loop.submit(coroutine))

    def _started(self) -> _Running:
        with self._lock:
            if self._closed:
                raise ServiceError("The client is closed", where=self)
            if self._running is None:
                self._running = _Running(self, self._make())
            return self._running

    def _forget(self) -> None:  # pragma: no cover - in a forked process only
        """In a forked process: the parent's thread is not here, and its connections are the parent's."""
        self._lock = threading.Lock()
        if self._running is not None:
            self._running.close.detach()
            _of_parents.append(self._running)
            self._running = None


class _Running:
    """A client with the loop that it belongs to; closed at the latest when its owner is gone or the program ends."""

    def __init__(self, owner: Client, client: AsyncClient) -> None:
        self.client = client
        self.loop = EventLoopThread()
        self.close = weakref.finalize(owner, _close, self.loop, self.client)


def _close(loop: EventLoopThread, client: AsyncClient) -> None:
    loop.close(client.close())


_clients: weakref.WeakSet[Client] = weakref.WeakSet()
_of_parents: list[_Running] = []
"""Kept, since whoever throws them away closes what the parent still uses."""


def _after_fork() -> None:  # pragma: no cover - in a forked process only
    for client in list(_clients):
        client._forget()  # noqa: SLF001 - it belongs to the class


os.register_at_fork(after_in_child=_after_fork)

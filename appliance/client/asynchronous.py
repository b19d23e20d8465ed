"""The client for asyncio: everything that is known of the service's protocol comes together here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, AsyncIterable, Iterable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, Unpack

from appliance.client.access import Address, Key
from appliance.client.answers import ModelInfo, jpeg_of, models_of, record_of, score_dict_of
from appliance.client.connection import ServiceConnection
from appliance.client.items import Item, ItemScoring, OnError
from appliance.client.many import asynchronous, results_async, window_of
from appliance.client.pictures import Picture, resized
from appliance.client.requests import DetectOptions, Request, detect_request, score_request
from appliance.client.retries import RetryPolicy
from appliance.client.stream import DetectionStream, IndexedRecord
from appliance.client.trainings import AsyncTrainings
from appliance.errors import ConfigError

if TYPE_CHECKING:
    from appliance.records import Record


class AsyncClient:
    """Asks one service, from one event loop, for as many pictures at once as the caller likes.

    Retries and deadlines hold for each picture: what may pass (429, 503, a connection that ends before an answer
    has begun) is tried again, see `appliance.client.retries`.

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
        self._connection = ServiceConnection(
            Address.parse(url), Key(key), timeout_s, RetryPolicy(max_attempts), ssl_context
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._connection.address.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections; the client is of no use afterwards."""
        await self._connection.close()

    async def detect(
        self,
        picture: Picture,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[DetectOptions],
    ) -> Record:
        """The record of one picture, the same that batch scoring writes.

        Args:
            picture: A path or URI, an encoded file as bytes, a picture of Pillow, RGB pixels as uint8
                `[height, width, 3]`, or an address: as text it is fetched here, as `Url` by the service.
            name: Becomes `image_uri` of the record; by default the path or address, or "upload".
            timeout_s: Time for this picture.
            **options: See `DetectOptions`.

        Raises:
            ServiceCallError: The service cannot be reached, is late or busy, or refuses the picture.
            InputError: The picture cannot be read, or an argument is wrong.
        """
        deadline = self._connection.deadline(timeout_s)
        ready = await self._connection.ready_picture(picture, name, deadline)
        return record_of(await self._connection.answer(detect_request(ready, options), deadline))

    async def annotated(
        self,
        picture: Picture,
        *,
        name: str | None = None,
        timeout_s: float | None = None,
        **options: Unpack[DetectOptions],
    ) -> bytes:
        """The picture with its detections drawn into it, as JPEG.

        Args and errors are those of `detect`.
        """
        deadline = self._connection.deadline(timeout_s)
        ready = await self._connection.ready_picture(picture, name, deadline)
        request = detect_request(ready, options, annotated=True)
        return jpeg_of(await self._connection.answer(request, deadline))

    async def detect_many(
        self,
        pictures: AsyncIterable[Item] | Iterable[Item],
        *,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: OnError = "record",
        timeout_s: float | None = None,
        **options: Unpack[DetectOptions],
    ) -> AsyncGenerator[Record]:
        """Exactly one record a picture, `concurrency` pictures being in work at once.

        Pictures are asked for as there is room: at most twice `concurrency` have been taken and not been given
        back, so an iterable without an end needs no more memory than one of a few pictures.

        Args:
            pictures: Pictures, or pairs of name and picture; without a name, bytes are called by their index.
                A plain iterable is asked in the event loop.
            concurrency: Pictures in work, retries and waiting for them included. Many more than the service has
                places for come to nothing after `max_attempts`.
            ordered: In the order of the pictures, or as they are ready.
            on_error: What comes of a picture that came to nothing: a record with `error` and `error_kind`, or
                its error is raised, which ends all.
            timeout_s: Time for each.
            **options: See `DetectOptions`.

        Raises:
            ConfigError: An argument is wrong.
            ApplianceError: With `on_error="raise"`, that of the first picture that has one.
        """
        window = window_of(concurrency, ordered=ordered)
        work = self.item_scoring(concurrency, on_error, timeout_s, options)
        async with aclosing(
            results_async(pictures, work, window=window, ordered=ordered)
        ) as records:
            async for record in records:
                yield record

    async def stream(
        self,
        pictures: AsyncIterable[Item] | Iterable[Item],
        *,
        in_flight: int = 16,
        on_error: OnError = "record",
        timeout_s: float | None = None,
        **options: Unpack[DetectOptions],
    ) -> AsyncGenerator[IndexedRecord]:
        """One request for any number of pictures: the index of each, from 0, and its record, as they are ready.

        All of it goes to one replica of the service; `detect_many` divides its pictures among all. A connection
        that breaks is opened again, and pictures without an answer are sent again.

        Args:
            pictures: As for `detect_many`.
            in_flight: Pictures taken whose records have not been given back.
            on_error: As for `detect_many`.
            timeout_s: Longest wait for the next answer while there are pictures without one.
            **options: See `DetectOptions`.

        Raises:
            ApplianceError: The stream cannot go on, or with `on_error="raise"` a picture cannot be read.
        """
        stream = self.detection_stream(in_flight, on_error, timeout_s, options)
        places = asyncio.Semaphore(in_flight)

        async def send() -> None:
            source, index = aiter(asynchronous(pictures)), 0
            while True:
                await places.acquire()
                try:
                    item = await anext(source)
                except StopAsyncIteration:
                    return await stream.end()
                await stream.add(index, item)
                index += 1

        sending = asyncio.create_task(send())
        sending.add_done_callback(stream.report_failure)
        try:
            while (result := await stream.take()) is not None:
                places.release()
                yield result
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await stream.close()

    def item_scoring(
        self,
        concurrency: int,
        on_error: OnError,
        timeout_s: float | None,
        options: Mapping[str, Any],
    ) -> ItemScoring:
        """What makes the records for `detect_many`."""
        return ItemScoring(
            self._connection,
            concurrency=concurrency,
            on_error=on_error,
            timeout_s=timeout_s,
            options=options,
        )

    def detection_stream(
        self,
        in_flight: int,
        on_error: OnError,
        timeout_s: float | None,
        options: Mapping[str, Any],
    ) -> DetectionStream:
        """What `stream` sends its pictures with."""
        return DetectionStream(
            self._connection,
            in_flight=in_flight,
            on_error=on_error,
            timeout_s=timeout_s,
            options=options,
        )

    async def score_compat(
        self,
        picture: Picture,
        *,
        image_resize_dims: Sequence[int] | None = None,
        parameters: Mapping[str, Any] | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """One picture through `POST /score`, as the 2018 package's service answers.

        Args:
            picture: As for `detect`, but for a `Url`.
            image_resize_dims: Width and height in pixels that the picture is scaled to before it is sent.
            parameters: Of that endpoint: `score_threshold`, `max_total_detections`.
            timeout_s: Time for this picture.

        Returns:
            `detection_boxes` as [top, left, bottom, right] in 0..1, `detection_scores` descending,
            `detection_classes` from 1, `num_detections`.

        Raises:
            ApplianceError: As `detect`.
        """
        deadline = self._connection.deadline(timeout_s)
        ready = await self._connection.ready_picture(picture, None, deadline)
        if ready.url is not None:
            raise ConfigError(
                "POST /score takes no Url", hint="Give the address as text: it is fetched here"
            )
        if image_resize_dims is not None:
            ready = await asyncio.to_thread(resized, ready, image_resize_dims)
        return score_dict_of(
            await self._connection.answer(score_request(ready, parameters), deadline)
        )

    async def models(self, *, timeout_s: float | None = None) -> tuple[ModelInfo, ...]:
        """The models of the service, the default first.

        Raises:
            ServiceCallError: The service cannot be reached, or wants another key.
        """
        request = Request("its models", "/v1/models")
        return models_of(
            await self._connection.answer(request, self._connection.deadline(timeout_s))
        )

    @property
    def trainings(self) -> AsyncTrainings:
        """The trainer of the service, where that has one; wants an admin key."""
        return AsyncTrainings(self._connection)

    async def ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the service answers and its model does; asks once.

        Raises:
            ServiceCallError: What never passes: no TLS, no such host, something else than the appliance.
        """
        return await self._connection.is_ready(self._connection.deadline(timeout_s))

    async def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Returns as soon as the service is ready, for which it is asked again and again.

        Raises:
            ServiceTimeoutError: It is not in that time; says what came instead.
            ServiceCallError: What never passes: no TLS, no such host.
        """
        await self._connection.wait_until_ready(timeout_s)

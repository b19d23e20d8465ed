"""The client for asyncio: everything that is known of the service's protocol comes together here."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import (
    AsyncIterable,
    AsyncIterator,
    Callable,
    Coroutine,
    Iterable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, Self, TypeAlias, Unpack

from appliance.client.access import Address, Key
from appliance.client.answers import (
    Answer,
    ModelInfo,
    accepted,
    failed_record,
    jpeg_of,
    models_of,
    record_of,
    score_dict_of,
)
from appliance.client.many import results_async, window_of
from appliance.client.pictures import (
    Picture,
    ReadyPicture,
    default_name,
    is_web_address,
    ready_picture,
    resized,
)
from appliance.client.requests import DetectOptions, Request, detect_request, score_request
from appliance.client.retries import Deadline, RetryPolicy
from appliance.errors import (
    ApplianceError,
    ConfigError,
    ForeignAnswerError,
    ServiceCallError,
    ServiceError,
    ServiceTimeoutError,
)

if TYPE_CHECKING:
    from appliance.client.transport import Transport
    from appliance.records import Record

Item: TypeAlias = "Picture | tuple[str, Picture]"
"""A picture, or a picture with the name that its record is to carry: `(name, picture)`."""
OnError: TypeAlias = Literal["record", "raise"]

_POLL_S = (0.05, 1.0)
"""How long to wait between two looks whether a service is ready: at first, and at most."""


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
        self._address = Address.parse(url)
        self._key = Key(key)
        self._timeout_s = Deadline(timeout_s).timeout_s
        self._policy = RetryPolicy(max_attempts)
        self._ssl_context = ssl_context
        self._transport: Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._address.base_url!r})"

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections; the client is of no use afterwards."""
        self._closed = True
        if self._transport is not None:
            await self._transport.close()

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
        deadline = self._deadline(timeout_s)
        ready = await self._ready(picture, name, deadline)
        return record_of(await self._answer(detect_request(ready, options), deadline))

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
        deadline = self._deadline(timeout_s)
        ready = await self._ready(picture, name, deadline)
        request = detect_request(ready, options, annotated=True)
        return jpeg_of(await self._answer(request, deadline))

    async def detect_many(
        self,
        pictures: AsyncIterable[Item] | Iterable[Item],
        *,
        concurrency: int = 8,
        ordered: bool = True,
        on_error: OnError = "record",
        timeout_s: float | None = None,
        **options: Unpack[DetectOptions],
    ) -> AsyncIterator[Record]:
        """Exactly one record a picture, `concurrency` pictures being in work at once.

        Pictures are asked for as there is room: at most twice `concurrency` have been taken and not been given
        back, so an iterable without an end needs no more memory than one of a few pictures.

        Args:
            pictures: Pictures, or pairs of name and picture; without a name, bytes are called by their index.
                A plain iterable is asked in the event loop.
            concurrency: Pictures in work, retries and waiting for them included.
            ordered: In the order of the pictures, or as they are ready.
            on_error: What comes of a picture that came to nothing: a record with `error` and `error_kind`, or
                its error is raised, which ends all.
            timeout_s: Time for each.
            **options: See `DetectOptions`.

        Raises:
            ConfigError: An argument is wrong.
            ApplianceError: With `on_error="raise"`, that of the first picture that has one.
        """
        window, work = self.worker(concurrency, ordered, on_error, timeout_s, options)
        async with aclosing(
            results_async(pictures, work, window=window, ordered=ordered)
        ) as records:
            async for record in records:
                yield record

    def worker(
        self,
        concurrency: int,
        ordered: bool,
        on_error: OnError,
        timeout_s: float | None,
        options: Mapping[str, Any],
    ) -> tuple[int, Callable[[int, Item], Coroutine[Any, Any, Record]]]:
        """For `detect_many`: how many pictures to take ahead, and what makes the record of one."""
        if on_error not in ("record", "raise"):
            raise ConfigError("on_error is none", got=on_error, expected="'record' or 'raise'")
        window = window_of(concurrency, ordered=ordered)
        self._deadline(timeout_s)
        detect_request(ReadyPicture(""), options)
        places = asyncio.Semaphore(concurrency)

        async def work(index: int, item: Item) -> Record:
            name, picture = item if isinstance(item, tuple) else (None, item)
            name = default_name(picture, f"[{index}]") if name is None else name
            async with places:
                ready, deadline = ReadyPicture(name), self._deadline(timeout_s)
                try:
                    ready = await self._ready(picture, name, deadline)
                    return record_of(await self._answer(detect_request(ready, options), deadline))
                except ApplianceError as error:
                    if on_error == "raise" or self._closed:
                        raise
                    return failed_record(error, ready)

        return window, work

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
        deadline = self._deadline(timeout_s)
        ready = await self._ready(picture, None, deadline)
        if ready.url is not None:
            raise ConfigError(
                "POST /score takes no Url", hint="Give the address as text: it is fetched here"
            )
        if image_resize_dims is not None:
            ready = await asyncio.to_thread(resized, ready, image_resize_dims)
        return score_dict_of(await self._answer(score_request(ready, parameters), deadline))

    async def models(self, *, timeout_s: float | None = None) -> tuple[ModelInfo, ...]:
        """The models of the service, the default first.

        Raises:
            ServiceCallError: The service cannot be reached, or wants another key.
        """
        request = Request("its models", "/v1/models")
        return models_of(await self._answer(request, self._deadline(timeout_s)))

    async def ready(self, *, timeout_s: float | None = None) -> bool:
        """Whether the service answers and its model does; asks once.

        Raises:
            ServiceCallError: What never passes: no TLS, no such host, something else than the appliance.
        """
        try:
            await self._attempt(Request("", "/readyz"), self._deadline(timeout_s))
        except ServiceTimeoutError:
            return False
        except ServiceCallError as error:
            if not error.transient:
                raise
            return False
        return True

    async def wait_until_ready(self, timeout_s: float = 120.0) -> None:
        """Returns as soon as the service is ready, for which it is asked again and again.

        Raises:
            ServiceTimeoutError: It is not in that time; says what came instead.
            ServiceCallError: What never passes: no TLS, no such host.
        """
        deadline = Deadline(timeout_s)
        wait_s, longest_s = _POLL_S
        while True:
            try:
                await self._attempt(Request("", "/readyz"), deadline)
            except ServiceCallError as error:
                # What stands in front of a service answers before it does.
                may_come = error.transient or isinstance(
                    error, ForeignAnswerError | ServiceTimeoutError
                )
                if not may_come:
                    raise
                if deadline.left_s <= wait_s:
                    raise ServiceTimeoutError(
                        "The service is not ready",
                        where=self._address.base_url,
                        got=error.message,
                        expected=f"that it answers within {timeout_s:g} s",
                    ) from None
            else:
                return
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, longest_s)

    def _deadline(self, timeout_s: float | None) -> Deadline:
        return Deadline(self._timeout_s if timeout_s is None else timeout_s)

    async def _ready(self, picture: Picture, name: str | None, deadline: Deadline) -> ReadyPicture:
        name = default_name(picture) if name is None else name
        if is_web_address(picture):
            data = await self._connected().fetch(str(picture), deadline.left_s)
            return ReadyPicture(name, data)
        return await asyncio.to_thread(ready_picture, picture, name)

    async def _answer(self, request: Request, deadline: Deadline) -> Answer:
        attempt = 1
        while True:
            try:
                return await self._attempt(request, deadline)
            except ServiceCallError as error:
                error.attempts = attempt
                wait_s = self._policy.wait_s(error, attempt, deadline.left_s)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
            attempt += 1

    async def _attempt(self, request: Request, deadline: Deadline) -> Answer:
        return accepted(await self._connected().send(request, deadline), request.what)

    def _connected(self) -> Transport:
        if self._closed:
            raise ServiceError("The client is closed", where=self._address.base_url)
        loop = asyncio.get_running_loop()
        if self._transport is None:
            from appliance.client.transport import Transport  # aiohttp takes its time to import

            self._transport = Transport(self._address, self._key, self._ssl_context)
            self._loop = loop
        if self._loop is not loop:
            raise ServiceError(
                "An AsyncClient belongs to the event loop that used it first",
                hint="Make one in each loop, or use Client",
            )
        return self._transport

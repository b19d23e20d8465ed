"""From one of many pictures to its record, whatever happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from appliance.client.answers import failed_record, record_of
from appliance.client.connection import ServiceConnection
from appliance.client.pictures import Picture, ReadyPicture, default_name
from appliance.client.requests import detect_request, query_of
from appliance.errors import ApplianceError, ConfigError

if TYPE_CHECKING:
    from appliance.records import Record

Item: TypeAlias = "Picture | tuple[str, Picture]"
"""A picture, or a picture with the name that its record is to carry: `(name, picture)`."""
OnError: TypeAlias = Literal["record", "raise"]


def named(index: int, item: Item) -> tuple[str, Picture]:
    """The picture of an item, with its name."""
    if isinstance(item, tuple):
        return item
    return default_name(item, f"[{index}]"), item


def checked(on_error: OnError) -> OnError:
    """The same word.

    Raises:
        ConfigError: It is none of the two.
    """
    if on_error not in ("record", "raise"):
        raise ConfigError("on_error is none", got=on_error, expected="'record' or 'raise'")
    return on_error


class ItemScoring:
    """Makes the records of items, `concurrency` of them at once.

    Args:
        connection: To the service.
        concurrency: Pictures in work, retries and waiting for them included.
        on_error: Whether a picture that came to nothing gives a record that says so, or raises.
        timeout_s: For each; None takes that of the connection.
        options: As they stand in a query.

    Raises:
        ConfigError: One of them is wrong.
    """

    def __init__(
        self,
        connection: ServiceConnection,
        *,
        concurrency: int,
        on_error: OnError,
        timeout_s: float | None,
        options: Mapping[str, Any],
    ) -> None:
        self._connection = connection
        self._places = asyncio.Semaphore(concurrency)
        self._on_error = checked(on_error)
        self._timeout_s = connection.deadline(timeout_s).timeout_s
        query_of(options)
        self._options = options

    async def __call__(self, index: int, item: Item) -> Record:
        """The record of one item.

        Raises:
            ApplianceError: With `on_error="raise"`.
        """
        name, picture = named(index, item)
        async with self._places:
            ready, deadline = ReadyPicture(name), self._connection.deadline(self._timeout_s)
            try:
                ready = await self._connection.ready_picture(picture, name, deadline)
                request = detect_request(ready, self._options)
                return record_of(await self._connection.answer(request, deadline))
            except ApplianceError as error:
                if self._on_error == "raise" or self._connection.closed:
                    raise
                return failed_record(error, ready)

"""What a user of a load does, in the words of Locust: one request after the other, each answer checked.

Only Locust's own process imports this module: Locust replaces the sockets of all Python.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from locust import FastHttpUser
from locust.env import Environment

from benchmarks.online.checks import References
from benchmarks.online.pictures import Picture, PictureMix
from benchmarks.online.protocols import Protocol, WrongAnswerError
from benchmarks.online.target import Target


class Work:
    """What all users of a process share.

    Args:
        target: The service.
        mix: Its pictures.
        think_s: Mean pause of a user between two requests in seconds, exponentially distributed.
        asked: What it was made for.
    """

    def __init__(
        self, target: Target, mix: PictureMix, think_s: float = 0.0, asked: object = None
    ) -> None:
        self.asked = asked
        self.target = target
        self.mix = mix
        self.think_s = think_s
        self.references = References(target.model.score_threshold, target.model.max_detections)
        self._turns = target.turns()

    def next_key(self) -> dict[str, str]:
        """Headers of the key whose turn it is."""
        return next(self._turns)


class ServiceUser(FastHttpUser):
    """Somebody with one connection and one key.

    Attributes:
        work: Set before the first user begins.
        requests: Bodies that were made already, by protocol and pictures: base64 is work of the generator.
    """

    abstract = True
    insecure = False  # a key goes to nobody whose certificate is not good
    work: Work | None = None
    bodies: dict[tuple[str, ...], tuple[bytes, dict[str, str]]] = {}  # noqa: RUF012 - shared by all

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._key = {} if self.work is None else self.work.next_key()

    def wait_time(self) -> float:
        """The pause before the next request in seconds."""
        return random.expovariate(1 / self.work.think_s) if self.work and self.work.think_s else 0.0

    def ask(
        self,
        protocol: Protocol,
        *,
        pictures: Sequence[Picture] = (),
        intended_s: float | None = None,
        more_headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """One request, and a look at its answer.

        Args:
            protocol: How to ask.
            pictures: What to send; drawn from the mix unless given.
            intended_s: When it was to be sent, by `time.perf_counter`; told to listeners of Locust's event
                beside when it was sent and when its answer was there.
            more_headers: Of the request.
        """
        work = self.work
        assert work is not None, "no user begins before the work is known"
        pictures = pictures or work.mix.draw(protocol.pictures)
        body, headers = self._request(protocol, pictures)
        context: dict[str, Any] = {"intended_s": intended_s, "sent_s": time.perf_counter()}
        with self.client.post(
            protocol.path.format(model=work.target.model.name),
            name=protocol.path,
            data=body,
            headers={**headers, **self._key, **more_headers},
            context=context,
            catch_response=True,
        ) as response:
            context = response.request_meta["context"]
            context["answered_s"] = time.perf_counter()
            context["status"] = response.status_code
            if response.status_code == 200:
                try:
                    for found, picture in zip(
                        protocol.read(response.content, pictures), pictures, strict=True
                    ):
                        work.references.check(found, picture)
                except WrongAnswerError as error:
                    response.failure(f"wrong answer: {error}")
            elif response.status_code:
                response.failure(f"status {response.status_code}")

    def _request(
        self, protocol: Protocol, pictures: Sequence[Picture]
    ) -> tuple[bytes, dict[str, str]]:
        if protocol.pictures > 1:
            return protocol.request(pictures)
        of = (protocol.name, *(picture.name for picture in pictures))
        if of not in self.bodies:
            self.bodies[of] = protocol.request(pictures)
        return self.bodies[of]

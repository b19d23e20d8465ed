"""Sends requests when they are due, whatever becomes of those before: Locust's users without Locust's waiting.

Locust's own runners are closed loops: a user who waits for an answer sends nothing, and the slower a service
the less it is asked. Here a user is taken, or made, for every arrival of a schedule, and each request counts from
the time when it was due.

Only Locust's own process imports this module: Locust replaces the sockets of all Python.
"""

from __future__ import annotations

import time
from typing import Any

import gevent
from locust.env import Environment
from locust.event import Events

from benchmarks.online.pictures import PictureMix
from benchmarks.online.protocols import Protocol
from benchmarks.online.schedule import poisson_arrivals
from benchmarks.online.steps import MAX_LAG_MS, Sample, Step
from benchmarks.online.target import Target
from benchmarks.online.users import ServiceUser, Work

_LEAD_S = 0.05
_MAX_AT_ONCE = 4000
"""Requests that wait for their answers; with more, this process measures itself."""
_SECOND = 1.0


class OpenLoopUser(ServiceUser):
    """A user who asks when told to."""

    connection_timeout = 20.0
    network_timeout = 60.0


class OpenLoop:
    """Loads one service.

    Args:
        target: The service.
        mix: The pictures.
        protocol: How to ask.

    Attributes:
        references: What answers are held against.
    """

    def __init__(self, target: Target, mix: PictureMix, protocol: Protocol) -> None:
        work = OpenLoopUser.work = Work(target, mix)
        self.references = work.references
        OpenLoopUser.host = target.base_url
        self._mix = mix
        self._protocol = protocol
        self._environment = Environment(
            user_classes=[OpenLoopUser], host=target.base_url, events=Events()
        )
        self._environment.events.request.add_listener(self._note)
        self._idle: list[OpenLoopUser] = []
        self._samples: list[Sample] = []

    def warm_up(self, seconds: float = 20.0) -> float:
        """Asks for every picture once, one after another, as far as the time goes.

        The answers are those that later ones are held against.

        Returns:
            The median time of an answer in seconds; the first tells of caches and threads that begin.
        """
        end_s = time.perf_counter() + seconds
        self._samples = []
        for picture in self._mix.pictures:
            self._user().ask(self._protocol, pictures=[picture] * self._protocol.pictures)
            if time.perf_counter() > end_s:
                break
        took_s = sorted(sample.answered_s - sample.sent_s for sample in self._samples)
        return took_s[len(took_s) // 2]

    @property
    def failures(self) -> list[str]:
        """What went wrong in the last step or the warm-up."""
        return [sample.failure for sample in self._samples if sample.failure is not None]

    def run(
        self,
        rate_per_s: float,
        seconds: float,
        *,
        objective_ms: float,
        seed: int,
        deadline_ms: float | None = None,
        max_lag_ms: float = MAX_LAG_MS,
    ) -> Step:
        """One step; ends when the last answer is there.

        Args:
            rate_per_s: Requests a second.
            seconds: How long they are sent.
            objective_ms: A right answer within it is good.
            seed: Of the schedule.
            deadline_ms: Told to the service with every request, so that it need not begin what is late.
            max_lag_ms: See `Step`.
        """
        more = {} if deadline_ms is None else {"X-Request-Timeout-Ms": f"{deadline_ms:g}"}
        arrivals = poisson_arrivals(rate_per_s, seconds, seed).tolist()
        self._samples = []
        ended_early = None
        start_s = time.perf_counter() + _LEAD_S
        at_work: set[gevent.Greenlet] = set()
        watch = CpuWatch()
        for due_s in arrivals:
            gevent.sleep(max(0.0, start_s + due_s - time.perf_counter()))
            if len(at_work) >= _MAX_AT_ONCE:
                ended_early = f"{_MAX_AT_ONCE} requests waited at once"
                break
            one = gevent.spawn(self._send, start_s + due_s, more)
            at_work.add(one)
            one.link(at_work.discard)
        gevent.sleep(max(0.0, start_s + seconds - time.perf_counter()))
        shares = watch.stop()
        gevent.joinall(list(at_work), raise_error=True)
        samples = [
            Sample(
                sample.intended_s - start_s,
                sample.sent_s - start_s,
                sample.answered_s - start_s,
                sample.status,
                sample.failure,
            )
            for sample in self._samples
        ]
        return Step(rate_per_s, seconds, objective_ms, samples, shares, ended_early, max_lag_ms)

    def _send(self, intended_s: float, headers: dict[str, str]) -> None:
        user = self._user()
        user.ask(self._protocol, intended_s=intended_s, more_headers=headers)
        self._idle.append(user)

    def _user(self) -> OpenLoopUser:
        """One who waits for nothing, with a connection that is open already, or a new one."""
        return self._idle.pop() if self._idle else OpenLoopUser(self._environment)

    def _note(self, context: dict[str, Any], exception: Exception | None, **_: Any) -> None:
        sent_s = context["sent_s"]
        intended_s = sent_s if context["intended_s"] is None else context["intended_s"]
        failure = None if exception is None else (str(exception) or type(exception).__name__)
        status = context["status"]
        self._samples.append(Sample(intended_s, sent_s, context["answered_s"], status, failure))


class CpuWatch:
    """What this process takes of one core in each second, from now until it is stopped."""

    def __init__(self) -> None:
        self._shares: list[float] = []
        self._mark = time.perf_counter(), time.process_time()
        self._greenlet = gevent.spawn(self._watch)

    def stop(self) -> list[float]:
        """The shares; of less than a second where there is no whole one."""
        self._greenlet.kill()
        if not self._shares:
            self._note()
        return self._shares

    def _watch(self) -> None:
        while True:
            gevent.sleep(_SECOND)
            self._note()

    def _note(self) -> None:
        now = time.perf_counter(), time.process_time()
        self._shares.append((now[1] - self._mark[1]) / max(1e-6, now[0] - self._mark[0]))
        self._mark = now

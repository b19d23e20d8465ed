"""Health that is honest: threads that hang for real, models that fail, and what the service says of it."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from factories import jpeg_bytes
from serving import JPEG_TYPE, api_of, ask, serving, settings_for

from appliance.errors import ServiceError
from appliance.scoring import ImageScorer
from serve_app.scoring.engine import ScoringEngine
from serve_app.scoring.health import PATIENCE_S, EngineHealth, WorkNotes
from serve_app.scoring.models import ModelPool

JPEG = jpeg_bytes((128, 96), seed=1)
STUCK_AFTER_S = 60.0
PROBE_AFTER_S = 30.0
FOREVER_S = 60.0


class Clock:
    """Seconds that pass when the test says so."""

    def __init__(self):
        self.now_s = 1000.0

    def __call__(self):
        return self.now_s


class Hanging:
    """Stands before a function of the model or the decoder, and can hold or fail whoever comes."""

    def __init__(self, function):
        self.function = function
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.error = None
        self.calls = 0

    def __call__(self, *arguments):
        self.calls += 1
        self.entered.set()
        assert self.gate.wait(FOREVER_S)
        if self.error is not None:
            raise self.error
        return self.function(*arguments)

    def hold(self):
        """Whoever comes now hangs, until `release`."""
        self.entered.clear()
        self.gate.clear()

    def release(self):
        self.gate.set()


@pytest.fixture(scope="module")
def scorer(tiny_model_path):
    return ImageScorer.load(str(tiny_model_path), device="cpu")


def engine_of(scorer, **values):
    return ScoringEngine(
        copy.copy(scorer), ThreadPoolExecutor(1, "model"), settings_for("unused", **values)
    )


@contextlib.contextmanager
def engine_that_can_hang(scorer):
    """A real engine on a real model, whose threads really block; and the clock that its health goes by."""
    engine = engine_of(scorer)
    clock = Clock()
    engine.health = EngineHealth(
        engine.health._probe,
        stuck_after_s=STUCK_AFTER_S,
        probe_after_s=PROBE_AFTER_S,
        clock_s=clock,
    )
    predict = engine.scorer.predict = Hanging(engine.scorer.predict)
    decode = engine.scorer.decode = Hanging(engine.scorer.decode)
    try:
        yield engine, clock, predict, decode
    finally:
        predict.release()
        decode.release()


@pytest.fixture
def hanging(scorer):
    with engine_that_can_hang(scorer) as parts:
        yield parts


@pytest.fixture
def service(hanging):
    """The service on such an engine, over HTTP."""
    engine, *_ = hanging
    with serving(api_of(engine, settings_for("unused"))) as url:
        yield url
        hanging[2].release()
        hanging[3].release()


def readiness(url):
    status, headers, body = ask(f"{url}/readyz", "GET")
    return status, headers, body


@contextlib.contextmanager
def request_in_the_background(url):
    """A picture that is being scored while the block runs."""
    answers = []
    thread = threading.Thread(
        target=lambda: answers.append(ask(f"{url}/v1/detect", data=JPEG, headers=JPEG_TYPE)[0])
    )
    thread.start()
    yield answers
    thread.join(FOREVER_S)


@pytest.mark.parametrize("part", [2, 3], ids=["model", "decoder"])
def test_a_thread_that_hangs_makes_the_service_not_ready_until_it_moves_again(
    part, hanging, service
):
    clock, thread = hanging[1], hanging[part]
    assert readiness(service)[0] == 200
    thread.hold()
    with request_in_the_background(service) as answers:
        assert thread.entered.wait(FOREVER_S)
        clock.now_s += STUCK_AFTER_S - 1
        assert readiness(service)[0] == 200  # a long batch, but none that hangs
        clock.now_s += 2
        status, headers, body = readiness(service)
        assert status == 503
        assert headers["Retry-After"] == "1"
        assert body["error"]["code"] == "not_ready"
        assert "in work for 61 s" in body["error"]["message"]
        assert ask(f"{service}/healthz", "GET")[0] == 200
        thread.release()
    assert answers == [200]
    assert readiness(service)[0] == 200


def test_a_model_that_fails_is_asked_again_and_believed_when_it_answers(hanging, service):
    predict = hanging[2]
    predict.error = RuntimeError("CUDA error at 0x7f: /home/somebody")
    assert ask(f"{service}/v1/detect", data=JPEG, headers=JPEG_TYPE)[0] == 500
    status, _, body = readiness(service)
    assert status == 503
    assert "RuntimeError" in body["error"]["message"]
    assert "somebody" not in str(body)
    predict.error = None
    for _ in range(2):
        calls = predict.calls
        assert readiness(service)[0] == 200
    assert predict.calls == calls  # the second time it was believed


def test_an_error_of_one_picture_alone_leaves_the_service_ready(hanging, service):
    assert ask(f"{service}/v1/detect", data=b"no picture", headers=JPEG_TYPE)[0] == 400
    assert readiness(service)[0] == 200
    assert hanging[2].calls == 0


def test_the_built_in_picture_is_asked_for_only_after_a_while_without_work(hanging, service):
    _, clock, predict, _ = hanging
    clock.now_s += PROBE_AFTER_S
    assert readiness(service)[0] == 200
    assert predict.calls == 0
    clock.now_s += 1
    assert readiness(service)[0] == 200
    assert predict.calls == 1
    assert readiness(service)[0] == 200
    assert predict.calls == 1


def test_those_who_ask_at_once_share_one_picture_and_wait_for_it_only_so_long(
    hanging, service, monkeypatch
):
    _, clock, predict, _ = hanging
    monkeypatch.setattr("serve_app.scoring.health.PATIENCE_S", 0.05)
    assert PATIENCE_S >= 1
    clock.now_s += PROBE_AFTER_S + 1
    predict.hold()
    for _ in range(3):
        assert readiness(service)[0] == 200  # slow is not yet bad
    clock.now_s += STUCK_AFTER_S + 1
    assert readiness(service)[0] == 503
    assert predict.calls == 1


def test_a_closed_engine_is_unhealthy(scorer):
    async def scenario():
        with engine_that_can_hang(scorer) as (engine, *_):
            pool = ModelPool(engine)
            await pool.check_health()
            await pool.close()
            with pytest.raises(ServiceError, match="takes no more pictures"):
                await pool.check_health()

    asyncio.run(scenario())


def test_a_health_check_without_a_probe_never_asks():
    async def scenario():
        asked = []
        health = EngineHealth(
            lambda: asked.append(1), stuck_after_s=1, probe_after_s=0, clock_s=Clock()
        )
        health.predicting.ended_s = 0.0
        await health.check()
        return asked

    assert asyncio.run(scenario()) == []


def test_work_is_as_old_as_its_oldest_piece():
    clock = Clock()
    notes = WorkNotes(clock)
    assert notes.longest_s == 0
    with notes.running():
        clock.now_s += 5
        with pytest.raises(ValueError, match="bad"), notes.running():
            raise ValueError("bad")
        clock.now_s += 2
        assert notes.failed
        assert notes.longest_s == 7
    assert notes.longest_s == 0
    assert not notes.failed
    assert notes.ended_s == clock.now_s


def test_a_batch_longer_than_any_request_may_take_is_stuck_by_default(scorer):
    def limit(**values):
        return engine_of(scorer, **values).health._stuck_after_s

    assert limit(request_timeout_s=7) == 7
    assert limit(request_timeout_s=7, stuck_after_s=100) == 100

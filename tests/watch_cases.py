"""What the tests of `appliance watch` share: a stream that runs beside the test, and what it has written."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pyarrow.dataset
import pytest
import torch

from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.stream import watcher
from appliance.bulk.stream.config import StreamConfig
from appliance.bulk.stream.stopping import StopRequest
from appliance.bulk.stream.summary import StreamSummary
from appliance.bulk.stream.watcher import watch_source
from appliance.records import Record, table_to_records
from appliance.scoring import ImageScorer

QUICK = {"max_delay_s": 0.1, "settle_s": 0.2, "poll_s": 0.05}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Threads of OpenMP that wait for each other on a busy machine take ten times as long as one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


_load = watcher._load


@functools.cache
def _loaded(model: str, device: str, scoring: BatchScoringConfig) -> ImageScorer:
    config = StreamConfig(
        device=device,
        score_threshold=scoring.score_threshold,
        labels=scoring.labels,
        tiling=scoring.tiling,
        max_image_bytes=scoring.max_image_bytes,
        max_image_pixels=scoring.max_image_pixels,
    )
    return _load(model, config)


# To read a model takes longer than most of these tests, of which one runs at a time.
watcher._load = lambda model, config: _loaded(
    model, config.device, replace(config.scoring(), batch_size=1)
)


class RunningStream:
    """A stream in a thread of this process."""

    def __init__(self, model: object, source: object, output: object, **settings) -> None:
        self.stop_request = StopRequest()
        self.output = str(output)
        self.summary: StreamSummary | None = None
        self.error: BaseException | None = None
        descriptor = settings.pop("descriptor", None)
        config = StreamConfig(**{**QUICK, **settings})

        def run() -> None:
            try:
                self.summary = watch_source(
                    model,
                    str(source),
                    output,
                    config=config,
                    stop=self.stop_request,
                    descriptor=descriptor,
                )
            except BaseException as error:  # noqa: BLE001 - raised by `end`
                self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def wait_for(self, condition: Callable[[], object], timeout_s: float = 30) -> None:
        """Returns when the condition holds; fails where the stream ends before that, or takes too long."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert self.error is None, self.error
            assert self._thread.is_alive(), self.summary
            assert time.monotonic() < end_s, "timeout"
            self._thread.join(0.02)

    def wait_for_rows(self, count: int) -> list[Record]:
        self.wait_for(lambda: len(rows_of(self.output)) >= count)
        return rows_of(self.output)

    def end(self) -> StreamSummary:
        """Its summary, when it has ended by itself."""
        self._thread.join(60)
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error
        return self.summary

    def stop(self) -> StreamSummary:
        self.stop_request.reason = "SIGTERM"
        return self.end()


@contextlib.contextmanager
def streaming(*arguments: object, **settings) -> Iterator[RunningStream]:
    """A stream that is stopped at the end of the block, if it still runs."""
    stream = RunningStream(*arguments, **settings)
    try:
        yield stream
    finally:
        stream.stop_request.reason = "the end of the test"
        stream._thread.join(60)


def score_once(model: object, source: object, output: object, **settings) -> StreamSummary:
    """What there is, in this thread."""
    config = StreamConfig(**{**QUICK, "settle_s": 0.05, "once": True, **settings})
    return watch_source(model, str(source), output, config=config)


def parts_of(output: object) -> list[Path]:
    return sorted(Path(str(output)).glob("parts/date=*/part-*.parquet"))


def rows_of(output: object) -> list[Record]:
    """All records, by the order of the parts."""
    paths = [str(path) for path in parts_of(output)]
    if not paths:
        return []
    return table_to_records(pyarrow.dataset.dataset(paths, format="parquet").to_table())


def scorer_of(model: str) -> ImageScorer:
    return _loaded(model, "auto", BatchScoringConfig(batch_size=1))


def expected_records(model: object, pictures: dict[str, bytes]) -> dict[str, Record]:
    """What a scorer in this process says of them."""
    records = scorer_of(str(model)).score(list(pictures.items()))
    return {record.image_uri: record for record in records}


def write_whole(path: Path, data: bytes) -> None:
    """As a careful program does: aside, then renamed."""
    aside = path.with_name(f".{path.name}.aside")
    aside.write_bytes(data)
    os.replace(aside, path)


@contextlib.contextmanager
def watching_process(
    model: object, source: object, output: Path, *options: object, stdin: object = None
) -> Iterator[psutil.Popen]:
    """`appliance watch` in a process of its own, killed at the end of the block if it still runs.

    Its standard error goes to a file beside the output.
    """
    words = ["-m", "appliance.cli.main", "watch", model, source, output, "--json", *options]
    with output.with_suffix(".stderr").open("a") as errors:
        process = psutil.Popen(
            [sys.executable, *map(str, words)],
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            start_new_session=True,  # Ctrl-C of the terminal is for the tests
        )
    try:
        yield process
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        process.communicate()


def summary_of(process: psutil.Popen) -> dict:
    """What a process says at its end."""
    stdout, _ = process.communicate(timeout=120)
    return json.loads(stdout.splitlines()[-1])


def wait_until(condition: Callable[[], object], process: psutil.Popen, output: Path) -> None:
    """Returns when the condition holds; fails when the process ends before that."""
    while not condition():
        assert process.poll() is None, output.with_suffix(".stderr").read_text()
        psutil.wait_procs([process], timeout=0.02)

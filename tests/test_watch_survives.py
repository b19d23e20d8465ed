"""`appliance watch` under `kill -9`: every picture that was ever complete has exactly one row."""

from __future__ import annotations

import hashlib
import random
import subprocess
import sys
from collections import Counter

import psutil
import pytest
from factories import jpeg_bytes
from watch_cases import (
    expected_records,
    one_thread,  # noqa: F401 - a fixture
    parts_of,
    rows_of,
    score_once,
    wait_until,
    watching_process,
)

SETTLE_S = 0.5
# Shorter than the settle time, so that a file that is being written never looks complete.
OPTIONS = (
    "--settle",
    f"{SETTLE_S}s",
    "--poll",
    "100ms",
    "--max-delay",
    "200ms",
    "--batch-size",
    "3",
)

WRITER = """
import os, sys, time
folder, stock, count, settle_s = *sys.argv[1:3], int(sys.argv[3]), float(sys.argv[4])

def content_of(name):
    with open(f"{stock}/{name}", "rb") as file:
        return file.read()

def rename_in(path, data):
    with open(folder + "/.aside", "wb") as file:
        file.write(data)
    os.replace(folder + "/.aside", path)

print("ready", flush=True)
for line in sys.stdin:
    for index in range(int(line), int(line) + count):
        path, data = f"{folder}/{index:05d}.jpg", content_of(index)
        kind = index % 4
        if kind == 0:
            with open(path, "wb", buffering=0) as file:  # slowly
                for first in range(0, len(data), 500):
                    file.write(data[first : first + 500])
                    time.sleep(settle_s / 20)
        elif kind == 1:
            rename_in(path, data)
        elif kind == 2:  # replaced before or after it is scored, by other bytes
            rename_in(path, content_of(f"{index}.before"))
            time.sleep(settle_s * (index % 3))
            rename_in(path, data)
        else:
            rename_in(path, data)
            os.utime(path, (index, index) if index % 3 else (4e9, 4e9))
    print("written", flush=True)
"""


def content_of(index):
    """What the file ends up with."""
    return b"no picture" if index % 8 == 3 else jpeg_bytes(seed=index)


class Writer:
    """A process that writes pictures into a folder, a handful at a time."""

    def __init__(self, folder, stock, at_once):
        words = [sys.executable, "-c", WRITER, folder, stock, at_once, SETTLE_S]
        self.process = psutil.Popen(
            [str(word) for word in words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout.readline() == "ready\n"
        self.stock, self.at_once, self.begun = stock, at_once, 0

    def begin(self):
        for index in range(self.begun, self.begun + self.at_once):
            (self.stock / str(index)).write_bytes(content_of(index))
            (self.stock / f"{index}.before").write_bytes(jpeg_bytes((64, 48), seed=index))
        self.process.stdin.write(f"{self.begun}\n")
        self.process.stdin.flush()
        self.begun += self.at_once

    def finish(self):
        assert self.process.stdout.readline() == "written\n"

    def close(self):
        self.process.kill()
        self.process.communicate()


def survive(model, tmp_path, kills, at_once):
    """Writes and kills, one after the other; then lets the last run end, and looks at every row."""
    incoming, out, stock = tmp_path / "incoming", tmp_path / "out", tmp_path / "stock"
    incoming.mkdir()
    stock.mkdir()
    writer = Writer(incoming, stock, at_once)
    killed_with_rows = []
    try:
        for _ in range(kills):
            writer.begin()
            with watching_process(model, incoming, out, *OPTIONS) as process:
                # From before its first part of this run up to a few parts later.
                wanted = len(parts_of(out)) + random.randrange(3)
                wait_until(lambda wanted=wanted: len(parts_of(out)) >= wanted, process, out)
                psutil.wait_procs([process], timeout=random.uniform(0, 0.3))
                process.kill()
                process.wait()
            killed_with_rows.append(len(rows_of(out)))
            writer.finish()
        summary = score_once(model, incoming, out, settle_s=SETTLE_S)
    finally:
        writer.close()
    rows = rows_of(out)
    errors = out.with_suffix(".stderr").read_text()
    assert "Traceback" not in errors
    assert "error:" not in errors
    assert summary.rows == len(rows)
    check(model, incoming, rows, writer.begun)
    print("rows at each kill:", killed_with_rows, "at the end:", len(rows))
    return killed_with_rows


def check(model, incoming, rows, count):
    """One row for what each file ends up with; others only of what it was before, and equal to the scorer's."""
    pictures = {str(incoming / f"{index:05d}.jpg"): content_of(index) for index in range(count)}
    expected = expected_records(model, pictures)
    per_content = Counter((row.image_uri, row.content_sha256) for row in rows)
    assert set(per_content.values()) == {1}
    last = [row for row in rows if row.content_sha256 == expected[row.image_uri].content_sha256]
    assert {row.image_uri: row for row in last} == expected
    earlier = [row for row in rows if row not in last]
    assert all(int(row.image_uri[-9:-4]) % 4 == 2 for row in earlier)
    assert {(row.width_px, row.height_px) for row in earlier} <= {(64, 48)}
    assert len({hashlib.sha256(data).hexdigest() for data in pictures.values()}) > count / 2


def test_two_kills_lose_nothing_and_double_nothing(tiny_model_path, tmp_path):
    survive(tiny_model_path, tmp_path, kills=2, at_once=12)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_twenty_kills_lose_nothing_and_double_nothing(tiny_model_path, tmp_path):
    killed_with_rows = survive(tiny_model_path, tmp_path, kills=20, at_once=24)
    assert len(set(killed_with_rows)) > 5

"""`appliance watch` as it is typed, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import psutil
import pytest
from factories import jpeg_bytes
from registry_cases import registered
from watch_cases import (
    one_thread,  # noqa: F401 - a fixture
    parts_of,
    rows_of,
    summary_of,
    wait_until,
    watching_process,
)

from appliance.bulk.stream.stopping import CTRL_C, stop_on_signals

OPTIONS = ("--settle", "0s", "--poll", "100ms", "--max-delay", "100ms")


@pytest.fixture
def incoming(tmp_path):
    folder = tmp_path / "incoming"
    folder.mkdir()
    for index in range(3):
        (folder / f"{index}.jpg").write_bytes(jpeg_bytes(seed=index))
    return folder


def test_sigterm_finishes_what_was_taken(tiny_model_path, incoming, tmp_path):
    out = tmp_path / "out"
    with watching_process(tiny_model_path, incoming, out, *OPTIONS) as process:
        wait_until(lambda: parts_of(out), process, out)
        process.send_signal(signal.SIGTERM)
        summary = summary_of(process)
        assert process.returncode == 0
    assert summary["images"] == summary["rows"] == len(rows_of(out))
    assert summary["ended"] == "SIGTERM"
    assert not (out / "_lock").exists()


def test_ctrl_c_finishes_the_lines_of_standard_input(tiny_model_path, incoming, tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "jobs.stream_score", tiny_model_path, "-", out, "--json"]
    with psutil.Popen(
        [str(word) for word in command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        for path in sorted(incoming.iterdir()):
            print(json.dumps(str(path)), file=process.stdin)
        print("nonsense", file=process.stdin, flush=True)
        wait_until(lambda: parts_of(out), process, out)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130, stderr
    summary = json.loads(stdout.splitlines()[-1])
    assert (summary["images"], summary["errors_by_kind"]) == (4, {"unreadable": 1})
    assert summary["ended"] == "Ctrl-C"
    assert f"scoring - into {out}" in stderr
    assert f"what has been scored is written down in {out}/_ledger.sqlite" in stderr


def test_the_second_signal_ends_at_once():
    program = """
import os, signal
from appliance.bulk.stream.stopping import stop_on_signals
with stop_on_signals() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    print(stop.reason, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("never", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("SIGTERM\n", 128 + signal.SIGTERM)


def test_signals_are_as_before_afterwards():
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals() as stop:
        assert stop.reason is None
        signal.raise_signal(signal.SIGINT)
        assert stop.reason == CTRL_C
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_summary_is_shown_as_a_table(
    run_appliance, tiny_model_path, incoming, tmp_path, capsys
):
    (incoming / "broken.jpg").write_bytes(b"no picture")
    models = registered(tmp_path / "models", tiny_model_path).root_uri
    words = ["shapes", incoming, tmp_path / "out", "--once", "--settle", "0s", "--registry", models]
    words += ["--tile", "1x2", "--labels", "circle", "--min-score", "0.1", "--poll", "1s"]
    words += ["--webhook", "http://127.0.0.1:9/"]
    assert run_appliance("watch", *words[:-2]) == 0
    shown = capsys.readouterr().out
    assert "errors: unreadable" in shown
    assert {one.model_name for one in rows_of(tmp_path / "out")} == {"shapes"}
    assert "for example: Not a picture" in shown
    assert "objects: square" not in shown
    assert f'pandas.read_parquet("{tmp_path / "out"}")' in shown
    assert run_appliance("watch", *words, "--quiet") == 0
    shown = capsys.readouterr()
    assert "batches to post" in shown.out
    assert shown.err == ""
    assert run_appliance("watch", *words, "--settle", "soon") == 1
    assert "--settle is no duration" in capsys.readouterr().err

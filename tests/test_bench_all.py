"""The benchmarks as commands: each is reached, one that fails stops no other, and a soak tells growth from noise."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from service_load import wait_for
from typer.testing import CliRunner

from appliance.cli import bench
from appliance.errors import ConfigError
from benchmarks import all as all_command
from benchmarks import serve_online
from benchmarks.all import FULL, KEPT, QUICK, run_all
from benchmarks.measurement import machine
from benchmarks.soak import growth, state_of_children

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.parametrize("command", ["online", "batch", "train", "model", "all", "compare"])
def test_a_command_is_the_benchmark_of_its_name(command, monkeypatch):
    ran = []

    monkeypatch.setattr(os, "execv", lambda program, words: ran.append((program, *words)))
    CliRunner().invoke(bench.app, [command, "x", "--help", "--rounds", "2"])
    ((program, python, _, module, *arguments),) = ran
    assert program == python == sys.executable
    assert arguments == ["x", "--help", "--rounds", "2"]
    folder = Path(__file__).resolve().parents[1] / module.replace(".", "/")
    assert folder.with_suffix(".py").is_file() or (folder / "__main__.py").is_file()


@pytest.mark.parametrize("command", ["online", "all"])
def test_who_lacks_the_packages_of_a_load_is_told(command, monkeypatch):
    monkeypatch.setattr(bench, "find_spec", lambda name: None)
    failed = CliRunner().invoke(bench.app, [command, "--quick"]).exception
    assert isinstance(failed, ConfigError)
    assert "locust" in str(failed)
    assert ".[bench]" in str(failed)


@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_one_that_is_stopped_clears_away_what_it_has_made(signal_number, code, tmp_path):
    command = [sys.executable, "-m", "appliance.cli.main", "bench", "batch", "--quick"]
    command += ["--sides", "bare", "--rounds", "500", "--folder", str(tmp_path / "results")]
    (tmp_path / "scratch").mkdir()
    environment = {**os.environ, "TMPDIR": str(tmp_path / "scratch")}
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, env=environment, process_group=0, cwd=ROOT
    ) as process:
        wait_for(lambda: list(tmp_path.rglob("*.json")) or process.poll() is not None)
        # A terminal's Ctrl-C reaches all of its programs, `kill` one.
        send = os.killpg if signal_number == signal.SIGINT else os.kill
        send(process.pid, signal_number)
        said = process.communicate()[1]
    assert process.returncode == code
    assert "Traceback" not in said
    assert not [path for path in (tmp_path / "scratch").iterdir() if "throughput" in path.name]
    told = json.loads((tmp_path / "results" / "batch_throughput.json").read_text())
    assert (told["quick"], told["finished"]) == (True, False)


def test_one_that_fails_stops_no_other(tmp_path, capfd):
    surroundings = dict.fromkeys(("command", "date", "commit", "versions"), "")
    result = {"benchmark": "old", "machine": machine(), **surroundings}
    (tmp_path / "old.json").write_text(json.dumps(result))
    plan = {
        "fails": ("benchmarks.compare", "gone.json", "gone.json"),
        "works": ("benchmarks.compare", "--help"),
        "kept": ("zipfile", "-c", f"{KEPT}/made.zip", str(tmp_path / "old.json")),
        "found": ("zipfile", "-t", f"{KEPT}/made.zip"),
    }
    assert run_all(plan, tmp_path) == ["fails"]
    said = capfd.readouterr().out
    assert "failed, exit code 2" in said
    assert said.count(" done\n") == 3
    assert (tmp_path / "report.html").is_file()
    assert run_all({"works": ("benchmarks.compare", "--help")}, tmp_path / "empty") == []
    needing = {"fails": plan["fails"], "works": plan["works"]}
    assert run_all(needing, tmp_path, {"works": "fails"}) == ["fails", "works"]
    assert "not run, as fails failed, exit code 2" in capfd.readouterr().out


def test_what_is_run_is_what_is_asked_for(monkeypatch, capsys):
    ran = []
    monkeypatch.setattr(all_command, "run_all", lambda plan, *_: ran.append(dict(plan)))
    for arguments, plan in ((["--quick"], QUICK), ([], FULL)):
        monkeypatch.setattr(sys, "argv", ["all", *arguments])
        with pytest.raises(SystemExit) as stopped:
            all_command.main()
        assert stopped.value.code == 0
        assert ran[-1] == dict(plan)
    monkeypatch.setattr(sys, "argv", ["all", "--only", "model,abacus"])
    with pytest.raises(SystemExit) as stopped:
        all_command.main()
    assert stopped.value.code == 2
    assert "abacus is none of main_job, online" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", ["all", "--only", "model"])
    with pytest.raises(SystemExit):
        all_command.main()
    assert ran[-1] == {"model": FULL["model"]}
    # What another leaves for it is made first, once.
    for names in ("online", "online,main_job"):
        monkeypatch.setattr(sys, "argv", ["all", "--quick", "--only", names])
        with pytest.raises(SystemExit):
            all_command.main()
        assert list(ran[-1]) == ["main_job", "online"]
    for names, told in (("", "nothing is none of"), ("model,model", "model stands there twice")):
        monkeypatch.setattr(sys, "argv", ["all", "--only", names])
        with pytest.raises(SystemExit) as stopped:
            all_command.main()
        assert stopped.value.code == 2
        assert told in capsys.readouterr().err


def test_every_module_of_the_plans_takes_its_arguments(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["serve_online", "--help"])
    with pytest.raises(SystemExit):
        serve_online.main()
    assert "-- OPTION" in capsys.readouterr().out


def points_of(memory_mib, per_round=250):
    return [
        {"requests": per_round * n, "memory_mib": mib, "descriptors": 40, "threads": 9}
        for n, mib in enumerate(memory_mib, 1)
    ]


def test_growth_beyond_noise_is_a_leak():
    rng = np.random.default_rng(0)
    # Caches fill at first; that is no leak.
    filling = 500 + 100 * np.minimum(np.arange(40) / 8, 1)
    slopes = []
    for noise in rng.normal(0, 1, (100, 40)):
        steady = growth(points_of(filling + noise))
        assert not steady["memory_leaks"]
        assert steady["descriptors_per_1000_requests"] == (0, 0, 0)
        leaking = growth(points_of(filling + noise + np.arange(40) * 0.5))
        assert leaking["memory_leaks"]
        slopes.append(leaking["memory_mib_per_1000_requests"])
    assert np.mean([slope for _, slope, _ in slopes]) == pytest.approx(2, abs=0.1)
    assert sum(low < 2 < high for low, _, high in slopes) >= 85


def test_children_are_counted_with_what_they_hold():
    program = "import sys, threading; f = open('/dev/null'); threading.Thread(target=sys.stdin.read).start(); print('up', flush=True)"
    before = state_of_children()
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "up\n"
        during = state_of_children()
        child.stdin.close()
    assert during["threads"] - before["threads"] >= 2
    assert during["descriptors"] - before["descriptors"] >= 4
    assert during["memory_mib"] - before["memory_mib"] >= 1

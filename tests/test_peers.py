"""The comparison with peers: a real one from end to end, and that a peer which fails is told and stopped."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from survival import has_ended

from appliance.model.faster_rcnn import build_network
from appliance.model.model_file import load
from appliance.scoring import ImageScorer
from benchmarks.model_speed.cases import spec_of
from benchmarks.online.protocols import WrongAnswerError
from benchmarks.peers import environment
from benchmarks.peers.__main__ import QUICK, main
from benchmarks.peers.agreement import found_of
from benchmarks.peers.batch.comparison import compare_jobs
from benchmarks.peers.batch.jobs import JOBS, compare_rows
from benchmarks.peers.detector import WEIGHTS, build_detector, decode, detect, load_detector
from benchmarks.peers.environment import NotInstalledError, python_of, versions_in
from benchmarks.peers.online.asking import ASKINGS, read_answer
from benchmarks.peers.online.comparison import table
from benchmarks.peers.online.figures import figures_of
from benchmarks.peers.online.rounds import Loads, run_round
from benchmarks.peers.online.servers import SERVERS
from benchmarks.peers.preparation import plain_settings, prepare_material
from benchmarks.peers.processes import PeerFailedError, Running
from benchmarks.peers.training.comparison import compare_trainings
from benchmarks.peers.user_code import lines_of

ROOT = Path(__file__).resolve().parents[1]
SLEEPER = (
    "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(99)'])"
)


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def material(tmp_path_factory, cache_dir):
    return prepare_material(
        tmp_path_factory.mktemp("material"), backbone="mobilenet_v2", cache=cache_dir, quick=True
    )


def peers(*options, cache):
    command = [sys.executable, "-m", "benchmarks.peers", *map(str, options)]
    command += ["--cache", str(cache), "--environments", str(cache / "environments")]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


def test_a_peer_is_installed_compared_loaded_and_told(tmp_path, cache_dir, material):
    words = ["--only", "online", "--peers", "fastapi", "--quick", "--json", "--folder", tmp_path]
    done = peers(*words, cache=cache_dir)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])["online"]
    written = json.loads((tmp_path / "peers_online.json").read_text())
    assert written["results"] == told["results"]
    side = told["sides"]["fastapi"]
    assert side["figures"]["not_right"] == 0
    assert side["figures"]["saturated_images_per_s"] > 0
    assert side["figures"]["equal_load_ms"]["p99_is"].startswith("p99 of ")
    assert side["versions"].keys() == {"fastapi", "uvicorn"}
    (one,) = told["results"]
    assert one["pictures_compared"] == 16
    assert 0 < one["start_up_s"] < 120
    # Nothing published lacks its raw data.
    assert all(
        len(step["right_ms"]) + len(step["others"]) == step["requests"] for step in one["steps"]
    )


def test_a_peer_that_finds_something_else_is_not_measured(material, tmp_path):
    saved = torch.load(material.weights, weights_only=True)
    # The classes of its box predictor are mixed up.
    bias = saved["state_dict"]["roi_heads.box_predictor.cls_score.bias"]
    saved["state_dict"]["roi_heads.box_predictor.cls_score.bias"] = (
        bias + torch.arange(len(bias)) * 3
    )
    torch.save(saved, tmp_path / "other.pt")
    other = replace(material, weights=str(tmp_path / "other.pt"))
    with pytest.raises(PeerFailedError, match=r"0000?\.jpg: other detections"):
        run_round(SERVERS["fastapi"], Path(sys.executable), other, Loads(1, (1,), 1, 1, 2))


def test_plain_torchvision_is_the_same_network(material):
    ours = load(material.model)
    pixels = decode(material.read_pictures()[0].jpeg)
    expected = detect(ours.network.eval(), [pixels])
    os.environ[WEIGHTS] = material.weights
    try:
        assert detect(load_detector(), [pixels]) == expected
    finally:
        del os.environ[WEIGHTS]


@pytest.mark.parametrize("backbone", ["mobilenet_v2", "resnet18"])
def test_its_settings_are_those_of_the_spec(backbone):
    spec = spec_of("fasterrcnn_compact", backbone)
    network = build_network(spec)
    plain = build_detector(plain_settings(spec, network))
    plain.load_state_dict(network.state_dict())
    assert repr(plain.transform) == repr(network.transform)
    for part, names in (
        ("rpn", ("_pre_nms_top_n", "_post_nms_top_n", "nms_thresh", "score_thresh")),
        ("roi_heads", ("score_thresh", "nms_thresh", "detections_per_img")),
    ):
        for name in names:
            assert getattr(getattr(plain, part), name) == getattr(getattr(network, part), name)


def test_a_peer_that_ends_says_why(material):
    server = replace(
        SERVERS["fastapi"],
        command=lambda *_: [sys.executable, "-c", "raise SystemExit('no such option: --nonsense')"],
    )
    with pytest.raises(PeerFailedError, match="no such option: --nonsense"):
        run_round(server, Path(sys.executable), material, Loads(1, (1,), 1, 1, 2))


def test_all_processes_of_a_peer_are_stopped(tmp_path):
    processes = []

    def interrupted():
        with Running([sys.executable, "-c", SLEEPER], {}, tmp_path) as running:
            while len(running._tree()) < 2:
                time.sleep(0.05)
            processes.extend(running._tree())
            assert running.memory_mib() > 0
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert len(processes) == 2
    assert all(map(has_ended, processes))


def test_sigterm_stops_the_peer_too(tmp_path):
    code = (
        "import sys, pathlib, time\n"
        "from benchmarks.commands import end_on_sigterm\n"
        "from benchmarks.peers.processes import Running\n"
        "end_on_sigterm()\n"
        f"with Running([sys.executable, '-c', {SLEEPER!r}], {{}}, pathlib.Path('.')) as running:\n"
        "    while len(running._tree()) < 2: time.sleep(0.05)\n"
        "    print(*(process.pid for process in running._tree()), flush=True)\n"
        "    time.sleep(99)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as process:
        pids = [int(word) for word in process.stdout.readline().split()]
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 128 + signal.SIGTERM
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)


@pytest.mark.parametrize(
    ("code", "timeout_s", "said"),
    [
        ("print('all'); raise SystemExit(3)", 60, r"exit code 3: all"),
        (SLEEPER, 0.1, r"not done after 0\.1 s"),
    ],
)
def test_a_command_that_does_not_end_well_is_told(tmp_path, code, timeout_s, said):
    with (
        Running([sys.executable, "-c", code], {}, tmp_path) as running,
        pytest.raises(PeerFailedError, match=said),
    ):
        running.wait(timeout_s)
    assert not running.alive()


def test_an_environment_is_made_once_and_sees_the_projects_packages(cache_dir, monkeypatch):
    python = python_of("project", cache_dir)
    assert versions_in(python, ("torch",)) == {"torch": importlib.metadata.version("torch")}
    made = python.stat().st_ctime_ns
    assert python_of("project", cache_dir).stat().st_ctime_ns == made
    assert python.parents[2] == cache_dir


def test_packages_that_do_not_install_are_told(cache_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(environment, "REQUIREMENTS_DIR", tmp_path)
    (tmp_path / "broken.txt").write_text("nothing @ file:///there/is/none.whl\n")
    with pytest.raises(NotInstalledError, match=r"hash|file|none"):
        python_of("broken", cache_dir)


def test_answers_in_other_words_are_wrong(material):
    picture = material.read_pictures()[0]
    for name, answer in {
        "form": b"{}",
        "forms": b"[]",
        "inference": b"1",
        "json": b"not JSON",
    }.items():
        with pytest.raises(WrongAnswerError):
            read_answer(ASKINGS[name], answer, picture)


def test_every_way_to_ask_holds_the_picture(material):
    picture = material.read_pictures()[0]
    found = json.loads(Path(material.expected).read_text())[picture.name]
    answers = {
        "form": found,
        "forms": [found],
        "json": found,
        "predictions": found,
        "inference": {"outputs": [{"data": [json.dumps(found)]}]},
    }
    for name, answer in answers.items():
        got = read_answer(ASKINGS[name], json.dumps(answer).encode(), picture)
        assert np.array_equal(got.boxes_xyxy, found_of(found).boxes_xyxy)
        body = ASKINGS[name].body(picture.jpeg)
        assert picture.jpeg in body or b"/9j/" in body


def test_figures_are_medians_of_rounds_and_percentiles_of_all():
    def step(ms, **how):
        return {"seconds": 10, "requests": len(ms), "right_ms": ms, "others": [], **how}

    rounds = [
        {
            "start_up_s": start,
            "idle_mib": 1,
            "peak_mib": 2,
            "steps": [
                step([10.0] * count, clients=1),
                step([20.0] * 2 * count, clients=8),
                step([10.0] * 99 + [2000.0], step="equal_per_s"),
                step([10.0] * 50 + [2000.0] * 50, step="overload_per_s"),
            ],
        }
        for count, start in ((10, 1.0), (20, 5.0), (30, 2.0))
    ]
    figures = figures_of(rounds, seconds=10, objective_ms=1000)
    assert figures["saturated_images_per_s"] == 4
    assert figures["start_up_s"] == 2
    assert figures["goodput_at_equal_load_per_s"] == pytest.approx(9.9)
    assert figures["goodput_at_overload_per_s"] == pytest.approx(5)
    assert figures["equal_load_ms"]["p99_is"] == "p99 of 300"
    assert figures["one_client_ms"] == {
        "samples": 60,
        "p50": 10.0,
        "p99": 10.0,
        "p99_is": "p99 of 60",
    }
    many = [{**rounds[0], "steps": [step([1.0] * 10_000, clients=1), *rounds[0]["steps"][2:]]}]
    assert figures_of(many, seconds=10, objective_ms=1)["one_client_ms"]["p99_is"] == "p99"
    none = [{**rounds[0], "steps": [step([], clients=1), *rounds[0]["steps"][2:]]}]
    assert figures_of(none, seconds=10, objective_ms=1)["one_client_ms"]["p50"] is None


def test_the_table_has_those_that_failed():
    result = {
        "sides": {"detecto": {"failed": "does not install: no such package"}},
        "loads": {"equal_per_s": 1, "overload_per_s": 2},
        "objective_ms": 1000,
    }
    assert "does not install: no such package" in table(result)


def test_lines_of_user_code_are_those_with_code(tmp_path):
    (tmp_path / "a.py").write_text(
        '"""Says\n\nmuch."""\n\n# more\nx = [\n    1,\n]\n\n\ndef f():\n    "doc"\n    return """a\nb"""\n'
    )
    (tmp_path / "a.json").write_text('{\n\n"a": 1}\n')
    assert lines_of([tmp_path / "a.py"]) == 6
    assert lines_of([tmp_path / "a.py", tmp_path / "a.json"]) == 8
    assert lines_of([]) == 0


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--peers", "fastapi"], "--peers needs --only"),
        (
            ["--only", "online", "--peers", "fastapy"],
            "fastapy is none of ours, ours_tuned, fastapi",
        ),
    ],
)
def test_mistakes_are_told_in_one_sentence(words, sentence, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["peers", *words])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert sentence in capsys.readouterr().err


def options(cache_dir, *names, **changes):
    chosen = {"peers": names, "quick": True, "cache": cache_dir, "backbone": "mobilenet_v2"}
    chosen |= QUICK
    return argparse.Namespace(**chosen, environments=cache_dir / "environments", **changes)


def test_a_way_to_score_a_folder_is_compared_and_timed(cache_dir, capsys):
    written = []
    result = compare_jobs(options(cache_dir, "dataloader"), written.append)
    (one,) = result["results"]
    assert (one["side"], one["images"]) == ("dataloader", 16)
    assert one["images_per_s"] > 0
    assert one["wall_s"] > one["start_up_s"] > 0
    assert result["ratios"] == {}
    assert written[-1] is result
    assert "dataloader" in capsys.readouterr().out


def test_a_job_that_finds_something_else_or_too_little_has_failed(material, tmp_path):
    def job(rows):
        return [{"path": f"{index}.jpg", "found": json.dumps(found)} for index, found in rows]

    told = json.loads(Path(material.expected).read_text())
    found = [told[picture.name] for picture in material.read_pictures()]
    compare_rows(JOBS["daft"], job(enumerate(found)), material, 16)
    with pytest.raises(PeerFailedError, match="15 rows of 16 pictures"):
        compare_rows(JOBS["daft"], job(enumerate(found[1:])), material, 16)
    with pytest.raises(PeerFailedError, match=r"0\.jpg: "):
        compare_rows(
            JOBS["daft"], job([(0, {"boxes": [], "scores": [2.0], "labels": []})]), material, 1
        )


def test_rows_of_ours_are_held_against_the_same(material):
    records = ImageScorer.load(material.model).score(
        [(picture.name, picture.jpeg) for picture in material.read_pictures()]
    )
    compare_rows(JOBS["ours"], [record.to_row() for record in records], material, 16)


def test_trainings_are_compared(cache_dir, capsys):
    result = compare_trainings(options(cache_dir, "plain", "ours"), lambda _: None)
    plain, ours = result["results"]
    assert result["ratios"]["plain"]["rounds"] == [ours["images_per_s"] / plain["images_per_s"]]
    assert {"map_50", "step_ms", "images_per_s"} <= result["sides"]["ours"]["figures"].keys()
    assert result["sides"]["ours"]["lines_of_user_code"] == 0
    assert "ours by it" in capsys.readouterr().out

"""The benchmarks of scale and of starts: what they say follows from what happened, and the parts they replace are small."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from factories import jpeg_bytes
from serving import JPEG_TYPE, api_of, ask, serving, settings_for
from test_bench_results import document

from appliance.on_ray.serving import start_service
from benchmarks.cold_start import marks
from benchmarks.cold_start.phases import REPLICA, SERVICE, medians, moments_of, phases
from benchmarks.report.page import write_page
from benchmarks.scaling import __main__ as scaling
from benchmarks.scaling import tasks, weak
from benchmarks.scaling.control_plane import limits, no_room_for
from benchmarks.scaling.processes import CpuTimes, available_mib
from benchmarks.scaling.sleeping import DEFAULT_SLEEP_MS, SleepingScorer, SleepingService
from benchmarks.serving.service import is_ready, name_of
from serve_app import app
from serve_app.scoring.engine import ScoringEngine
from serve_app.start import stop_service

ROOT = Path(__file__).resolve().parents[1]
JPEG = jpeg_bytes((160, 120), seed=1)


def test_a_model_that_sleeps_is_the_service_without_its_objects(tiny_model_path):
    settings = settings_for(tiny_model_path)
    engine = ScoringEngine.load(settings)
    with serving(api_of(engine, settings)) as url:
        _, _, before = ask(f"{url}/v1/detect", "POST", JPEG, JPEG_TYPE)
        engine.scorer = SleepingScorer(engine.scorer, 0.2)
        status, headers, after = ask(f"{url}/v1/detect", "POST", JPEG, JPEG_TYPE)
    assert status == 200
    assert before["detections"]
    assert after == {**before, "detections": []}
    assert float(re.search(r"model;dur=([\d.]+)", headers["Server-Timing"])[1]) >= 200


def case(replicas, good_per_s, sleep_ms=50.0, haproxy_ms=0.2, idle=0.02):
    load = {
        "good_per_s": good_per_s,
        "cpu_ms_per_request": {"ServeReplica": 2.0, "haproxy": haproxy_ms},
    }
    return {
        "replicas": replicas,
        "sleep_ms": sleep_ms,
        "ideal_per_s": 1000 * replicas / sleep_ms if sleep_ms else None,
        "loads": [load, {**load, "good_per_s": good_per_s * 1.1}, load],
        "idle_cores": {"ServeReplica": replicas * idle, "raylet": 0.05, "gcs_server": 0.01},
        "memory_mib": {"ServeReplica": 300 * replicas, "raylet": 100},
        "replica_mib": 300,
        "object_store_mib": 19,
    }


CASES = [case(1, 300.0, 0.0), case(1, 19.0), case(8, 150.0), case(16, 290.0), case(32, 280.0)]


def test_limits_follow_from_what_each_process_took():
    found = limits(CASES)
    assert found["one_replica_per_s"] == 300
    assert (found["best_per_s"], found["replicas_at_best"]) == (290, 16)
    assert found["haproxy_thread_per_s"] == pytest.approx(5000)
    assert found["idle_cores_per_replica"] == pytest.approx(0.02)
    assert found["idle_cores_of_the_rest"] == pytest.approx(0.06)
    # Where memory allowed nothing but the replica without sleep.
    alone = limits([case(1, 300.0, 0.0, haproxy_ms=0.0)])
    assert (alone["best_per_s"], alone["haproxy_thread_per_s"]) == (300, None)


def test_memory_ends_the_growth_before_it_is_gone():
    assert no_room_for(16, replica_mib=400, free_mib=12_196) is None
    assert "16 replicas of 400 MiB" in no_room_for(16, replica_mib=400, free_mib=12_195)


def test_two_workers_are_compared_with_one_round_by_round(capsys):
    speeds = {1: iter((10.0, 20.0, 10.0)), 2: iter((18.0, 30.0, 20.0))}
    found = weak.measure(lambda workers: {"images_per_s": next(speeds[workers])}, 3, "batch")
    assert found["speed_up"] == {"median": 1.8, "rounds": [1.8, 1.5, 2.0]}
    assert found["efficiency"]["median"] == pytest.approx(0.9)
    assert [(one["round"], one["workers"]) for one in found["results"]] == [
        (number, workers) for number in (1, 2, 3) for workers in (1, 2)
    ]
    assert capsys.readouterr().out.count("batch") == 6


def test_a_task_costs_what_many_take_more_than_few_by_their_number():
    def job(number, parts, scoring_s, driver_cpu_s, rss_mib):
        figures = {"scoring_s": scoring_s, "driver_cpu_s": driver_cpu_s}
        return {"round": number, "parts": parts, "driver_rss_growth_mib": rss_mib, **figures}

    found = tasks.cost_of_a_task(
        [
            job(1, 1000, 12.0, 9.5, 6.0),
            job(1, 63, 2.63, 5.752, 6.0),
            job(2, 63, 2.63, 5.752, 5.0),
            job(2, 1000, 21.37, 15.122, 5.0),
        ]
    )
    assert found["task_ms"] == {
        "median": pytest.approx(15),
        "rounds": [pytest.approx(10), pytest.approx(20)],
    }
    assert found["driver_cpu_ms"]["rounds"] == [pytest.approx(4), pytest.approx(10)]
    assert found["driver_kib"] == {"median": 0.0, "rounds": [0.0, 0.0]}


def test_phases_add_up_to_the_whole_start():
    names = [moment for _, moment in SERVICE if not moment.startswith("replica: process")]
    noted = [
        {"name": name, "at_s": 1000.0 + 2 * n, "pid": 1, "process_began_s": 999.0}
        for n, name in enumerate(names)
    ]
    [listened_s] = [one["at_s"] for one in noted if one["name"] == "command: listen ends"]
    for one in noted:
        if one["name"].startswith("replica"):
            one |= {"pid": 2, "process_began_s": listened_s - 0.5}
    # The command imports the class of the replica, too; an earlier start is of no interest.
    noted.append({"name": "replica: our code", "at_s": 1005.0, "pid": 1, "process_began_s": 999.0})
    noted.append({"name": "client: ready", "at_s": 900.0, "pid": 3, "process_began_s": 900.0})
    moments = moments_of(noted, 999.5)
    assert moments["replica: process"] == listened_s - 0.5
    found = phases(SERVICE, moments, 999.5)
    assert list(found) == [phase for phase, _ in SERVICE]
    assert sum(found.values()) == pytest.approx(moments["client: answered"] - 999.5)
    # Ray had begun the process before it was asked for.
    assert found["decision, process of the replica"] == 0
    assert found["Ray's own part of the process"] == pytest.approx(2)
    assert min(found.values()) == 0
    # What was not noted is part of the next phase.
    del moments["replica: loaded"]
    shorter = phases(SERVICE, moments, 999.5)
    assert shorter["warm-up"] == pytest.approx(4)
    assert medians([found, shorter, shorter])["model loaded"] == 2


@pytest.fixture
def noted(tmp_path, monkeypatch):
    """The file of the moments."""
    monkeypatch.setenv(marks.FILE_VARIABLE, str(tmp_path / "marks"))
    monkeypatch.setattr(sys, "meta_path", sys.meta_path[:])
    return tmp_path / "marks"


def test_an_import_is_noted_and_otherwise_as_it_was(noted, tmp_path, monkeypatch):
    assert marks.read_marks(noted) == []
    (tmp_path / "slow_to_import.py").write_text("import time; time.sleep(0.05)\nVALUE = 7\n")
    monkeypatch.syspath_prepend(tmp_path)
    marks.mark_imports("test", ("slow_to_import", "json", "there_is_none_of_this"))
    import slow_to_import

    with pytest.raises(ModuleNotFoundError):
        import there_is_none_of_this  # noqa: F401
    begun, ended = marks.read_marks(noted)
    assert begun["name"] == "test: import slow_to_import"
    assert ended["name"] == "test: import slow_to_import ends"
    assert 0.05 <= ended["at_s"] - begun["at_s"] < 5
    assert begun["pid"] == os.getpid()
    assert begun["process_began_s"] < begun["at_s"]
    assert "VALUE = 7" in inspect.getsource(slow_to_import)
    del sys.modules["slow_to_import"]


def test_without_a_file_nothing_is_noted(monkeypatch, tmp_path):
    monkeypatch.delenv(marks.FILE_VARIABLE, raising=False)
    monkeypatch.chdir(tmp_path)
    marks.mark("nobody listens")
    assert list(tmp_path.iterdir()) == []


def test_processes_are_told_with_what_they_took():
    program = "import sys, time\nwhile time.process_time() < 0.3: pass\nprint(flush=True); sys.stdin.read()"
    before = CpuTimes.now()
    with subprocess.Popen(
        [sys.executable, "-c", program, " serve "],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        child.stdout.readline()
        taken = CpuTimes.now().since(before)
        child.stdin.close()
    assert 0.25 <= taken["command"] < 3
    assert 0 < available_mib() < 2**40
    # Ray writes first what an actor works on, or nothing of that.
    for title in ("ray::ServeReplica:x:D", "ray::SERVE_REPLICA::x#D#1:ServeReplica:x:D.__init__"):
        assert name_of([title]) == "ServeReplica"
    assert name_of(["ray::IDLE"]) == "IDLE"


def test_the_charts_of_scale_and_starts_are_drawn(tmp_path):
    one = weak.speed_up(
        [
            {"round": 1, "workers": 1, "images_per_s": 10},
            {"round": 1, "workers": 2, "images_per_s": 19},
        ]
    )
    parts = {"model": one, "online": one}
    plane = {"cases": CASES, "limits": limits(CASES)}
    table = {phase: 0.5 for phase, _ in REPLICA}
    for name, values in (
        ("scaling", {"weak": parts, "control_plane": plane}),
        ("part", {"weak": {}, "control_plane": {**plane, "cases": CASES[:1]}}),
        ("cold_start", {"starts": [], "median_s": {"after_kill": table, "new_replica": table}}),
    ):
        (tmp_path / f"{name}.json").write_text(json.dumps(document(name, **values)))
    page = write_page(tmp_path).read_text()
    assert "control_plane: picture_bytes" not in page
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        "scaling-weak",
        "scaling-control-plane",
        "scaling-cpu",
        "scaling-rest",
        "cold_start-phases",
    }


def test_a_part_that_there_is_not_is_told(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["scaling", "--only", "batch,abacus"])
    with pytest.raises(SystemExit) as stopped:
        scaling.main()
    assert stopped.value.code == 2
    assert "abacus is none of model, training" in capsys.readouterr().err


def test_a_replica_that_sleeps_is_a_replica_of_the_service(
    ray_cluster, tiny_model_path, monkeypatch
):
    monkeypatch.setattr(app, "DetectionService", SleepingService)
    settings = {"model": str(tiny_model_path), "num_cpus": 0.5, "num_threads": 1}
    service = start_service(settings, port=0, name="sleeping", route_prefix="/sleeping")
    try:
        assert is_ready(service.url)
        begin_s = time.perf_counter()
        status, _, answer = ask(f"{service.url}/v1/detect", "POST", JPEG, JPEG_TYPE)
        assert time.perf_counter() - begin_s >= DEFAULT_SLEEP_MS / 1000
        assert (status, answer["detections"]) == (200, [])
        assert (answer["width_px"], answer["height_px"]) == (160, 120)
    finally:
        stop_service("sleeping")
    assert not is_ready(service.url)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "command",
    ["cold_start --quick", "scaling --quick --only control_plane,model,training,batch,tasks"],
)
def test_the_quick_sets_run_on_services_of_their_own(command, tmp_path):
    name, *options = command.split()
    words = [sys.executable, "-m", f"benchmarks.{name}", *options, "--folder", str(tmp_path)]
    words += ["--cache", str(tmp_path / "cache"), "--json"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout.splitlines()[-1])
    if name == "cold_start":
        for start in ("service", "after_kill"):
            moments = told["starts"][0]["moments_s"][start]
            assert sum(told["median_s"][start].values()) == pytest.approx(
                moments["client: answered"], abs=0.05
            )
            assert told["median_s"][start]["torch imported by the replica"] > 0
    else:
        without_sleep, two = told["control_plane"]["cases"]
        assert (two["replicas"], two["loads"][0]["per_status"].keys()) == (2, {"200"})
        assert two["loads"][0]["cpu_ms_per_request"]["haproxy"] > 0
        assert without_sleep["loads"][0]["good_per_s"] > two["ideal_per_s"] > 0
        assert set(told["weak"]) == {"model", "training", "batch"}
        assert [job["parts"] for job in told["tasks"]["results"]] == [32, 2]
        assert [job["pictures"] for job in told["tasks"]["results"]] == [32, 32]

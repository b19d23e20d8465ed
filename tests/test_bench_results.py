"""Results of benchmarks: drawn as one page, and compared with what came before."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from appliance.errors import ConfigError
from benchmarks import compare as compare_command
from benchmarks.comparison import compare
from benchmarks.measurement import RESULTS_DIR, machine, require_writable
from benchmarks.online.campaign import figures_of
from benchmarks.online.search import Search
from benchmarks.online.steps import Sample, Step
from benchmarks.report.page import write_page

ROOT = Path(__file__).resolve().parents[1]


def document(name="here", **values):
    surroundings = {"command": "python -m x", "date": "2026-01-01", "commit": "abc", "versions": {}}
    return {"benchmark": name, "machine": machine(), **surroundings, **values}


def step_at(rate_per_s, mean_ms, seed=0, seconds=60.0, name="fixed rate", **changes):
    """A step whose latencies wander, so that neighbours in time are alike."""
    rng = np.random.default_rng(seed)
    times_s = np.sort(rng.uniform(0, seconds, rng.poisson(rate_per_s * seconds)))
    slow = 1 + 0.1 * np.sin(times_s / 3 + seed) + 0.05 * rng.standard_normal(len(times_s))
    samples = [
        Sample(at_s, at_s, at_s + mean_ms * one / 1000, 200, None)
        for at_s, one in zip(times_s.tolist(), slow.tolist(), strict=True)
    ]
    step = Step(rate_per_s, seconds, 1000.0, samples, **changes)
    return {"name": name, **step.to_json()}


def load(steps, figures=(), void=()):
    return document(
        "load", steps=steps, objective_ms=1000.0, figures=dict(figures), void=list(void)
    )


def rounds(speeds, side="ours"):
    each = enumerate(speeds, 1)
    return document(results=[{"side": side, "round": n, "images_per_s": s} for n, s in each])


def test_every_result_of_this_project_can_be_drawn(tmp_path):
    # Those of each shape: sides in rounds, both sides of a network, loads, other figures.
    for name in ("batch_throughput/cpu", "model_speed/cpu_compact", "service/serve_saturation_cpu"):
        shutil.copy(RESULTS_DIR / f"{name}.json", tmp_path)
    (tmp_path / "other.json").write_text("[1, 2]")
    (tmp_path / "broken.json").write_text("{")
    page = write_page(tmp_path).read_text()
    assert re.findall("<h2>(.*?)</h2>", page) == ["cpu", "cpu_compact", "serve_saturation_cpu"]
    assert "ratios: ours_to_naive" in page
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "cpu-speed.png",
        "cpu_compact-speed.png",
    }
    for picture in tmp_path.glob("*.png"):
        assert picture.read_bytes().startswith(b"\x89PNG")
    # Nothing is fetched: all sources are in the page.
    sources = re.findall(r'(?:src|srcset|href)="(.*?)[,"]', page)
    assert set(sources) == {"data:image/svg+xml;base64"}
    assert "<script" not in page


def test_a_row_of_the_page_is_never_empty(tmp_path):
    found = document(memory=[], void=[], sides=["ours", "plain"], limits={"a": [], "b": None})
    (tmp_path / "soak.json").write_text(json.dumps(found))
    rows = re.findall('<th scope="row">(.*?)</th><td>(.*?)</td>', write_page(tmp_path).read_text())
    assert rows == [
        ("memory", "none"),
        ("sides", "ours, plain"),
        ("limits: a", "none"),
        ("limits: b", "–"),
    ]


def test_a_load_is_drawn_with_what_is_void(tmp_path):
    curve = [step_at(rate, 20 * rate, seconds=20.0, name="curve") for rate in (5, 10, 20)]
    void = step_at(40, 30, seconds=5.0, name="overload", ended_early="<b>too many</b>")
    found = load([*curve, void], {"highest_rate_per_s": 10.0}, void=["<i>busy</i>"])
    (tmp_path / "load.json").write_text(json.dumps(found))
    page = write_page(tmp_path).read_text()
    assert {path.stem for path in tmp_path.glob("*.png")} == {
        "load-saturation",
        "load-latency",
        "load-spectrum",
    }
    assert "Void: &lt;i&gt;busy&lt;/i&gt;" in page
    assert "&lt;b&gt;too many&lt;/b&gt;" in page
    assert "<b>" not in page
    (tmp_path / "load.json").write_text(json.dumps(load([void])))
    assert "<figure>" not in write_page(tmp_path).read_text()


def test_one_rate_has_its_latencies_alone(tmp_path):
    (tmp_path / "load.json").write_text(json.dumps(load([step_at(50, 100, seconds=10.0)])))
    write_page(tmp_path)
    assert [path.name for path in tmp_path.glob("*.png")] == ["load-spectrum.png"]


def test_where_nothing_lies_nothing_is_drawn(tmp_path):
    with pytest.raises(ConfigError, match="No results of benchmarks"):
        write_page(tmp_path)
    command = [sys.executable, "-m", "benchmarks.report", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "error: No results of benchmarks in the folder" in done.stderr.splitlines()[-1]


def test_what_cannot_be_kept_is_not_measured(tmp_path):
    (tmp_path / "file").write_text("")
    for name, folder, told in (
        ("../evil", "latest", "name of a result is that of a file .got ../evil"),
        ("", "latest", "name of a result is that of a file .got nothing"),
        ("a", tmp_path / "file", "cannot be written there: .*file .got File exists"),
        ("a", "/proc/x", "cannot be written there: /proc/x .got No such file"),
    ):
        with pytest.raises(ConfigError, match=told):
            require_writable(name, str(folder))
    require_writable("a", str(tmp_path / "new"))
    assert (tmp_path / "new").is_dir()


def verdicts(old, new, **options):
    values = {"confidence": 0.95, "tolerance": 0.02, **options}
    return {change.name: change.verdict for change in compare(old, new, **values)}


def test_a_change_beyond_noise_is_told_and_one_within_is_not():
    rng = np.random.default_rng(0)

    def noisy(speed):
        return rounds((speed * (1 + 0.02 * rng.standard_normal(8))).tolist())

    name = "ours: images_per_s"
    assert verdicts(noisy(10), noisy(8.5)) == {name: "worse"}
    assert verdicts(noisy(10), noisy(12)) == {name: "better"}
    same = [verdicts(noisy(10), noisy(10))[name] for _ in range(40)]
    assert same.count("no change beyond noise") >= 38
    # Sure, and too small to count.
    assert verdicts(noisy(10), noisy(9.7), tolerance=0.1) == {name: "no change beyond noise"}
    assert verdicts(rounds([10] * 4), rounds([5] * 4)) == {name: "too few rounds"}
    assert verdicts(rounds([10] * 5), rounds([5] * 5)) == {name: "worse"}
    assert verdicts(rounds([10] * 5), rounds([5] * 5, side="other")) == {name: "gone"}


def test_latencies_that_grow_are_worse_and_goodput_that_ends_too():
    old, again = (load([step_at(40, 100, seed)]) for seed in (1, 2))
    slower = load([step_at(40, 115, 3)])
    at = "at 40 a second"
    found = verdicts(old, again)
    assert len(found) == 4
    assert set(found.values()) == {"no change beyond noise"}
    found = verdicts(old, slower)
    assert found.pop("fixed rate: goodput_per_s") == "no change beyond noise"
    assert found == {f"{at}: {name}_ms": "worse" for name in ("p50", "p90", "p95")}
    assert set(verdicts(slower, old).values()) == {"better", "no change beyond noise"}
    dead = load([step_at(40, 5000, 4)])
    assert verdicts(old, dead)["fixed rate: goodput_per_s"] == "worse"
    assert verdicts(dead, dead)["fixed rate: goodput_per_s"] == "no change beyond noise"
    assert verdicts(load([step_at(40, 100, name="curve")]), old) == {}


def test_figures_of_runs_are_compared_and_whole_searches_by_their_confirmed_step():
    runs = [{"train_wall_s": 100.0 + n, "http_requests": 10} for n in range(6)]
    slower = [{"train_wall_s": 150.0 + n, "http_requests": 10} for n in range(6)]
    assert verdicts(document(runs=runs), document(runs=slower)) == {"train_wall_s": "worse"}
    held = [load([step_at(rate, 50, name="confirmed")]) for rate in (40, 30)]
    assert verdicts(*held) == {"confirmed: goodput_per_s": "worse"}


def run_compare(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["compare", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        compare_command.main()
    said = capsys.readouterr()
    return stopped.value.code, said.out, said.err


def test_the_exit_code_is_for_continuous_integration(tmp_path, monkeypatch, capsys):
    old, new = tmp_path / "old", tmp_path / "new"
    for folder, speeds in ((old, [10, 10.1, 9.9, 10, 10.2]), (new, [8, 8.1, 7.9, 8, 8.1])):
        folder.mkdir()
        (folder / "speed.json").write_text(json.dumps(rounds(speeds)))
        (folder / f"{folder.name}_only.json").write_text(json.dumps(rounds(speeds)))
        (folder / "facts.json").write_text(json.dumps(document(figures={"speed": 1.0})))
    code, said, _ = run_compare(monkeypatch, capsys, old, new, "--json")
    assert code == 1
    table, last = said.splitlines()[:-1], json.loads(said.splitlines()[-1])
    assert table[:2] == ["facts.json: no figure to compare", "speed.json"]
    assert table[2].split()[-1] == "worse"
    assert table[3:] == [f"old_only.json: gone, not in {new}"]
    assert last["old_only.json"] is None
    (change,) = last["speed.json"]
    assert change["ratio_interval"][1] < 0.9
    code, said, _ = run_compare(monkeypatch, capsys, new / "speed.json", old / "speed.json")
    assert (code, said.split()[-1]) == (0, "better")
    few = tmp_path / "few.json"
    few.write_text(json.dumps(rounds([1, 2])))
    code, _, said = run_compare(monkeypatch, capsys, few, few)
    assert code == 2
    assert said == "A verdict needs 5 rounds on both sides: measure with --rounds 5\n"
    # What fails in continuous integration is not taken for as quick as before.
    (old / "old_only.json").unlink()
    for folder in (old, new):
        (folder / "speed.json").write_text(json.dumps(rounds([10] * 5)))
    assert run_compare(monkeypatch, capsys, old, new)[0] == 0
    (new / "speed.json").write_text(json.dumps(rounds([10] * 5, side="other")))
    code, said, _ = run_compare(monkeypatch, capsys, old, new)
    assert (code, said.splitlines()[-1].split()[-2:]) == (1, ["-", "gone"])


def test_runs_with_other_options_are_not_compared(tmp_path, monkeypatch, capsys):
    def result(name, command):
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({**rounds([10] * 5), "command": command}))
        return path

    first = result("a", "python -m benchmarks.x http://a:1 --rate 3 --json --folder old --seed 1")
    same = result("b", "python -m benchmarks.x --rate=3 --json http://b:2 --rounds 9")
    other = result("c", "python -m benchmarks.x http://a:1 --rate 400 --quick")
    module = result("d", "python -m benchmarks.y http://a:1 --rate 3")
    assert run_compare(monkeypatch, capsys, first, same)[0] == 0
    code, _, said = run_compare(monkeypatch, capsys, first, other)
    assert code == 2
    assert "(got --rate 3 before, --quick --rate 400 now)" in said
    code, _, said = run_compare(monkeypatch, capsys, first, module)
    assert "(got module benchmarks.x before, module benchmarks.y now)" in said
    assert run_compare(monkeypatch, capsys, first, other, "--any-options")[0] == 0


def test_what_comes_from_nothing_is_no_percentage(tmp_path, monkeypatch, capsys):
    paths = [tmp_path / "dead.json", tmp_path / "well.json"]
    for path, latency_ms in zip(paths, (5000, 100), strict=True):
        path.write_text(json.dumps(load([step_at(40, latency_ms, 1, name="confirmed")])))
    code, said, _ = run_compare(monkeypatch, capsys, *paths)
    assert (code, said.splitlines()[-1].split()[-3:]) == (0, ["from", "nothing", "better"])
    code, said, _ = run_compare(monkeypatch, capsys, *paths[::-1])
    assert (code, said.split()[-1]) == (1, "worse")


def test_what_cannot_be_compared_is_one_sentence(tmp_path, monkeypatch, capsys):
    good = rounds([10] * 5)
    other = {**good, "machine": {**good["machine"], "processor": "abacus"}}
    files = {"good": good, "other": other, "void": load([], void=["too busy"]), "odd": [1]}
    files["part"] = {**good, "finished": False}
    files["null"] = rounds([None] * 5)
    files["nothing"] = document(figures={"speed": 1.0})
    for name, content in files.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "empty").mkdir()
    for old, told in (
        ("other.json", "different machines (got abacus"),
        ("void.json", "A result is void"),
        ("odd.json", "no result of a benchmark"),
        ("gone.json", "cannot be read"),
        ("part.json", "A result is unfinished"),
        ("null.json", "no result of a benchmark"),
        ("nothing.json", "no figure to compare"),
        ("empty", "A folder is compared with a folder"),
    ):
        code, _, said = run_compare(monkeypatch, capsys, tmp_path / old, tmp_path / "good.json")
        assert code == 2
        assert told in said.splitlines()[-1]
    code, _, said = run_compare(monkeypatch, capsys, tmp_path / "empty", tmp_path)
    assert "no result of the same name" in said.splitlines()[-1]
    code, _, said = run_compare(monkeypatch, capsys, tmp_path, tmp_path, "--confidence", "2")
    assert "expected a share from 0 to 1" in said.splitlines()[-1]
    code, _, said = run_compare(monkeypatch, capsys, tmp_path, tmp_path, "--tolerance", "much")
    assert "expected a share from 0 to 1" in said.splitlines()[-1]
    arguments = (tmp_path / "other.json", tmp_path / "good.json", "--any-machine")
    assert run_compare(monkeypatch, capsys, *arguments)[0] == 0


def test_a_void_overload_has_no_figures():
    step = Step(10, 1.0, 100.0, [Sample(0, 0, 0.05, 200, None)] * 10)
    void = Step(20, 1.0, 100.0, [], ended_early="too many")
    figures = figures_of(Search(10.0, [(10.0, True)], step), [step], void)
    assert figures["highest_rate_per_s"] == 10
    assert figures["peak_goodput_per_s"] == pytest.approx(10)
    assert figures["overload_to_peak"] is None

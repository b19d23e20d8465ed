"""The benchmark of the model's speed: it runs where little is installed, and its figures mean what they say."""

from __future__ import annotations

import argparse
import importlib.metadata
import itertools
import json
import re
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from appliance.detections import Detections
from appliance.images.decoding import DecodedImage, decode_image
from appliance.model.faster_rcnn import build_network
from appliance.model.inference.stage_times import STAGES
from benchmarks import proposals_curve
from benchmarks.commands import counts
from benchmarks.model_speed.cases import TrainingStage, case_of, spec_of
from benchmarks.model_speed.memory import peak_memory
from benchmarks.model_speed.options import architectures
from benchmarks.model_speed.pictures import LABEL_MAP, PictureSet, draw_pictures
from benchmarks.model_speed.proposals import Point, Proposals, detections_for, recommended
from benchmarks.model_speed.rounds import Round, SideTimes, alternate
from benchmarks.model_speed.sides import Reference
from benchmarks.model_speed.weights import trained_model, weights_path

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
COMPACT, SMALL = "fasterrcnn_compact", "fasterrcnn_mobilenet_v3_large_320_fpn"
OURS = {"appliance", "benchmarks", "jobs", "serve_app"}
BARE = ("torch", "torchvision", "numpy", "pillow", "safetensors")

# Some modules are as absent as if they had never been installed: they are not found, by nobody.
BARE_PYTHON = """
import json, runpy, sys
from importlib.machinery import PathFinder
absent, module, arguments = json.loads(sys.argv[1])
class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        hidden = name.partition(".")[0] in absent
        return None if hidden else super().find_spec(name, path, target)
    @classmethod
    def find_distributions(cls, *arguments, **named):
        found = super().find_distributions(*arguments, **named)
        return (one for one in found if one.name.lower().replace("-", "_") not in absent)
sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
sys.argv = [module, *arguments]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


def beyond(distributions) -> set[str]:
    """Everything installed but these distributions and what they require: its modules, and its own names."""
    installed = {plain(found.name) for found in importlib.metadata.distributions()}
    known, left = set(), list(distributions)
    while left:
        name = plain(left.pop())
        if name in installed - known:
            known.add(name)
            requires = importlib.metadata.requires(name) or ()
            left += [re.match(r"[\w.-]+", line)[0] for line in requires if "extra ==" not in line]
    modules = importlib.metadata.packages_distributions().items()
    kept = {module for module, owners in modules if {plain(owner) for owner in owners} & known}
    return ({module for module, _ in modules} | installed) - kept - known - OURS


def plain(name: str) -> str:
    """The name of a distribution in the one way of writing it that is also a module's."""
    return name.lower().replace("-", "_")


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def model(cache_dir):
    return trained_model(
        spec_of(COMPACT, quick=True), case_of(COMPACT, "cpu", quick=True), CPU, cache_dir
    )


@pytest.fixture(scope="module")
def shelf(cache_dir) -> DecodedImage:
    image = draw_pictures(PictureSet("test", 2, (160, 120)), cache_dir)[1]
    return decode_image(Path(image.storage_path).read_bytes(), source=image.name)


def test_the_benchmark_runs_with_only_torch_torchvision_numpy_pillow_and_safetensors(
    cache_dir, tmp_path
):
    absent = beyond(BARE)
    assert {"ray", "pydantic", "pyarrow", "matplotlib", "faster_coco_eval", "yaml"} <= absent
    assert {"torch", "torchvision", "numpy", "PIL", "safetensors"}.isdisjoint(absent)
    arguments = ["--arch", "compact", "--device", "cpu", "--batch", "1,4", "--quick", "--json"]
    arguments += ["--rounds", "3", "--cache", str(cache_dir), "--folder", str(tmp_path)]
    given = json.dumps([sorted(absent), "benchmarks.model_speed", arguments])
    done = subprocess.run(
        [sys.executable, "-c", BARE_PYTHON, given], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert [(one["arch"], one["device"], one["batch"]) for one in printed["results"]] == [
        (COMPACT, "cpu", 1),
        (COMPACT, "cpu", 4),
    ]
    for one in printed["results"]:
        walls_s = zip(one["reference_rounds_wall_s"], one["rounds_wall_s"], strict=True)
        assert one["ratio"] == pytest.approx(statistics.median(a / b for a, b in walls_s))
        assert 0 <= one["ap50"] <= 1
        assert 0 <= one["reference_ap50"] <= 1
        for side in ("", "reference_"):
            assert one[f"{side}images_per_s"] > 0
            assert one[f"{side}latency_ms"].keys() == {"p50", "p99", "n"}
            assert (one[f"{side}peak_memory_mib"] or 0) >= 0  # None where the kernel does not tell
        assert list(one["stages"]) == ["decode", *STAGES]
        assert sum(one["stages"].values()) == pytest.approx(1)
        assert one["coco_ap"] is one["reference_coco_ap"] is None
        assert one["weights"]["steps"] == 2
    assert "faster-coco-eval" in printed["coco"]
    written = json.loads((tmp_path / "model_speed.json").read_text())
    assert written["results"] == printed["results"]
    assert "ray" not in written["versions"]


def test_the_proposals_curve_runs_and_draws_its_charts(cache_dir, tmp_path, monkeypatch, capsys):
    arguments = ["--arch", "compact", "--device", "cpu", "--quick", "--json"]
    arguments += ["--cache", str(cache_dir), "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["proposals_curve", *arguments])
    proposals_curve.main()
    printed = json.loads(capsys.readouterr().out.splitlines()[-1])
    (result,) = printed["results"]
    assert [(p["pre_nms"], p["post_nms"]) for p in result["points"]] == [(100, 50), (20, 10)]
    assert result["recommended"] in result["points"]
    assert all(point["ms_per_image"] > 0 for point in result["points"])
    charts = sorted(tmp_path.glob("*.png"))
    assert [path.name.rpartition("-")[2] for path in charts] == ["ap.png", "time.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in charts)


def test_the_reference_has_the_defaults_of_torchvision(model):
    assert Reference.of(model, CPU).proposals == {
        "pre_nms": 1000,
        "post_nms": 1000,
        "score_threshold": 0.0,
    }
    spec = spec_of(SMALL, quick=True)
    small = replace(model, spec=spec, network=build_network(spec))
    assert Reference.of(small, CPU).proposals == {
        "pre_nms": 150,
        "post_nms": 150,
        "score_threshold": 0.05,
    }


def test_the_sweep_finds_what_the_whole_network_finds(model, shelf):
    reference = Reference.of(model, CPU)
    (expected,) = reference.predict([shelf])
    grid = [Proposals(5, 3), Proposals(1000, 1000)]
    few, found = detections_for(Reference.of(model, CPU).network, shelf, grid, CPU)
    assert len(expected) > len(few)
    np.testing.assert_array_equal(found.boxes_xyxy, expected.boxes_xyxy)
    np.testing.assert_array_equal(found.scores, expected.scores)
    np.testing.assert_array_equal(found.class_ids, expected.class_ids)


def test_weights_are_made_once_for_each_way_of_making_them(model, cache_dir):
    spec, case = spec_of(COMPACT, quick=True), case_of(COMPACT, "cpu", quick=True)
    fewer = spec.with_settings(proposals_post_nms=7)
    path = weights_path(spec, case, CPU, cache_dir)
    made_ns = path.stat().st_mtime_ns
    again = trained_model(fewer, case, CPU, cache_dir)
    assert path.stat().st_mtime_ns == made_ns
    assert again.version == model.version
    assert again.spec.proposals_post_nms == again.network.rpn.post_nms_top_n() == 7
    longer = replace(case, stages=(*case.stages, *case.stages))
    wider = spec.with_settings(fpn_channels=64)
    others = [(spec, longer, CPU), (wider, case, CPU), (spec, case, torch.device("cuda"))]
    paths = {path, *(weights_path(*other, cache_dir) for other in others)}
    assert len(paths) == 4


def test_a_further_stage_goes_on_from_the_weights_of_the_one_before(model, cache_dir):
    spec, case = spec_of(COMPACT, quick=True), case_of(COMPACT, "cpu", quick=True)
    # A rate that moves nothing: what comes out is what went in, but for the statistics of BatchNorm.
    further = replace(case, stages=(*case.stages, TrainingStage(64, 1, 1e-30)))
    longer = trained_model(spec, further, CPU, cache_dir)
    assert longer.info.training["steps"] == model.info.training["steps"] + 1
    assert [stage["shorter_side_px"] for stage in longer.info.training["stages"]] == [96, 64]
    before, after = model.network.state_dict(), longer.network.state_dict()
    assert torch.equal(
        before["roi_heads.box_head.fc6.weight"], after["roi_heads.box_head.fc6.weight"]
    )


def test_every_second_picture_is_a_shelf_of_four_scenes(cache_dir):
    scene, shelf_of_four = draw_pictures(PictureSet("test", 2, (160, 120)), cache_dir)
    assert len(scene) <= 10 < len(shelf_of_four)
    x1, y1, x2, y2 = shelf_of_four.boxes_xyxy.T
    # No object crosses the middle, and no quarter is without one.
    assert not ((x1 < 80) & (x2 > 80)).any()
    assert not ((y1 < 60) & (y2 > 60)).any()
    assert {(bool(x < 80), bool(y < 60)) for x, y in zip(x1, y1, strict=True)} == set(
        itertools.product((True, False), repeat=2)
    )
    assert set(shelf_of_four.label_names) <= set(LABEL_MAP.names)


def test_pictures_are_drawn_once_and_those_to_learn_from_are_others(cache_dir):
    wanted = PictureSet("test", 2, (160, 120))
    first = [Path(image.storage_path).read_bytes() for image in draw_pictures(wanted, cache_dir)]
    times_ns = [Path(i.storage_path).stat().st_mtime_ns for i in draw_pictures(wanted, cache_dir)]
    again = draw_pictures(wanted, cache_dir)
    assert [Path(image.storage_path).stat().st_mtime_ns for image in again] == times_ns
    to_learn = draw_pictures(replace(wanted, part="train"), cache_dir)
    assert first[0] != Path(to_learn[0].storage_path).read_bytes()


def test_rounds_alternate_over_the_same_pictures():
    pictures = [DecodedImage(torch.full((3, 8, 8), n, dtype=torch.uint8), (8, 8)) for n in range(3)]
    calls = []

    def side(name):
        def predict(images):
            calls.append((name, [int(image.pixels[0, 0, 0]) for image in images]))
            return [Detections.empty((8, 8)) for _ in images]

        return predict

    theirs, mine = alternate(
        side("torchvision"),
        side("ours"),
        pictures,
        device=CPU,
        batch=2,
        pictures_per_round=4,
        rounds=2,
    )
    warm_up, rounds = calls[:4], calls[4:]
    assert [name for name, _ in warm_up] == ["torchvision", "torchvision", "ours", "ours"]
    first, second = [[0, 1], [2, 0]], [[1, 2], [0, 1]]
    assert rounds == [
        (name, call)
        for calls_of_round in (first, second)
        for name in ("torchvision", "ours")
        for call in calls_of_round
    ]
    assert [len(side.rounds) for side in (theirs, mine)] == [2, 2]
    assert sorted(mine.detections) == [0, 1, 2]


def test_figures_of_a_side():
    seconds = (2.0, 4.0, 1.0)
    rounds = tuple(Round(wall_s, 2 * wall_s, (0.1, 0.3), {}) for wall_s in seconds)
    side = SideTimes(rounds, 10, 0.0, None)
    assert side.images_per_s == 5.0
    assert side.cpu_ms_per_image == 400.0
    assert side.latency_ms == {"p50": pytest.approx(200.0), "p99": None, "n": 6}
    many = SideTimes((Round(1.0, 1.0, tuple(range(1, 102)), {}),), 10, 0.0, None)
    assert many.latency_ms == {"p50": 51_000.0, "p99": 100_000.0, "n": 101}


def test_the_recommendation_is_the_fewest_proposals_that_lose_next_to_nothing():
    def point(pre, post, ap50, crowded, coco):
        return Point(pre, post, ap50, crowded, coco, 1.0, 1.0)

    most = point(1000, 1000, 0.9, 0.8, 0.7)
    good = point(300, 200, 0.8995, 0.8, 0.7)
    fewer_before = point(200, 200, 0.9, 0.8, 0.6985)
    fewer_after = point(300, 100, 0.9, 0.79, 0.7)
    assert recommended([most, good, fewer_before, fewer_after]) == good
    assert recommended([most, fewer_after]) == most


def test_peak_memory_is_that_of_the_block():
    with peak_memory(CPU) as measured:
        block = np.ones(64 * 2**20, np.uint8)
        del block
    assert 60 < measured.growth_mib < 100


@pytest.mark.parametrize("text", ["resnet50", "compact,", ""])
def test_an_unknown_architecture_is_named(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is none of fasterrcnn_compact"):
        architectures(text)


def test_a_mistake_is_one_sentence(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["proposals_curve", "--device", "abacus"])
    with pytest.raises(SystemExit) as stopped:
        proposals_curve.main()
    assert stopped.value.code == 2
    assert "abacus" in capsys.readouterr().err.splitlines()[-1]


def test_architectures_go_with_and_without_their_prefix():
    assert architectures("compact,fasterrcnn_resnet50_fpn") == (COMPACT, "fasterrcnn_resnet50_fpn")


@pytest.mark.parametrize("text", ["1,x", "0", "1,", "-2"])
def test_batches_are_whole_numbers(text):
    with pytest.raises(argparse.ArgumentTypeError, match="expected a whole number"):
        counts(text)


def test_batches_are_read():
    assert counts("1,4, 16") == (1, 4, 16)

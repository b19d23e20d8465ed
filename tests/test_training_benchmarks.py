"""The two benchmarks of the trainer: they run from end to end, and their figures mean what they say."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from test_model_speed import BARE, BARE_PYTHON, beyond

from appliance.annotations.convert import convert
from appliance.annotations.samples.scenes import make_sample_dataset
from appliance.errors import DatasetError, TrainingError
from benchmarks import accuracy
from benchmarks.model_speed.pictures import LABEL_MAP, PictureSet, draw_pictures
from benchmarks.training_speed import __main__ as training_speed
from benchmarks.training_speed import plain_loop
from benchmarks.training_speed.cases import case_of
from benchmarks.training_speed.phases import Phases, Window
from benchmarks.training_speed.plain_loop import PlainSettings, train_plainly
from benchmarks.training_speed.ratios import OURS, PLAIN, RAY_ONE, RAY_ONE_THREAD, RAY_TWO, ratios
from benchmarks.training_speed.sides import Bench, split_of

ROOT = Path(__file__).resolve().parents[1]
CPU = torch.device("cpu")
COMPACT = "fasterrcnn_compact"


def last_line(capsys) -> dict:
    return json.loads(capsys.readouterr().out.splitlines()[-1])


@pytest.fixture(scope="module")
def cache_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    """A file as torchvision's backbones are published, with random weights."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    save_file(torchvision.models.mobilenet_v3_small(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def voc_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("voc")
    make_sample_dataset(folder, train=8, test=1, seed=1, size_wh=(160, 120))
    return folder / "train"


def test_accuracy_is_cross_validated_by_the_defaults_of_the_command(
    voc_dir, backbone, tmp_path, monkeypatch, capsys
) -> None:
    arguments = ["--data", voc_dir, "--init", backbone, "--only", "fridge", "--quick", "--json"]
    arguments += ["--folder", tmp_path]
    monkeypatch.setattr(sys, "argv", ["accuracy", *map(str, arguments)])
    accuracy.main()
    printed = last_line(capsys)
    assert "scenes" not in printed
    found = printed["fridge"]
    folds = found["folds"]
    tested = [name for fold in folds for name in fold["tested_on"]]
    assert sorted(tested) == sorted(path.name for path in (voc_dir / "JPEGImages").iterdir())
    for fold in folds:
        assert (fold["steps"], fold["train_images"], fold["test_images"]) == (2, 6, 2)
        assert 0 <= fold["coco_ap"] <= fold["map_50"] <= 1
        assert fold["seconds"] == pytest.approx(fold["prepare_s"] + fold["train_s"])
        decided = {one["name"]: (one["value"], one["reason"]) for one in fold["decisions"]}
        # The recipe for pretrained weights, and what the folder of the run does not tell anybody.
        assert decided["network"] == (
            "compact, mobilenet_v3_small",
            "starts from small.safetensors",
        )
        assert decided["learning rate"] == ("0.0005, cosine", "the recipe for pretrained weights")
        assert decided["batch size"] == ("1", "the recipe's")
    assert found["mean"]["seconds"] == pytest.approx(np.mean([fold["seconds"] for fold in folds]))
    assert found["met"] == {
        "map_50": False,
        "coco_ap": False,
        "seconds": found["slowest_s"] <= 300,
    }
    assert json.loads((tmp_path / "accuracy.json").read_text())["fridge"] == found


def test_accuracy_leaves_out_what_is_not_there_and_says_why(tmp_path, monkeypatch, capsys) -> None:
    arguments = ["--data", tmp_path / "gone", "--quick", "--json", "--folder", tmp_path]
    monkeypatch.setattr(sys, "argv", ["accuracy", *map(str, arguments)])
    accuracy.main()
    printed = last_line(capsys)
    assert str(tmp_path / "gone") in printed["fridge"]["left_out"]
    scenes = printed["scenes"]
    assert (scenes["steps"], scenes["train_images"], scenes["test_images"]) == (2, 12, 3)
    assert {one["name"] for one in scenes["decisions"]} >= {"steps", "anchors", "memory"}

    monkeypatch.setattr(sys, "argv", [*sys.argv, "--only", "fridge"])
    with pytest.raises(SystemExit) as stopped:
        accuracy.main()
    assert stopped.value.code == 2
    (sentence,) = capsys.readouterr().err.splitlines()[-1:]
    assert sentence.startswith("error: The pictures or weights of the cross-validation are not")


def test_accuracy_takes_data_that_can_be_divided_only(voc_dir, backbone, tmp_path) -> None:
    with pytest.raises(DatasetError, match="Too few pictures"):
        accuracy.divide(["a.jpg", "b.jpg", "c.jpg"])
    convert(str(voc_dir), str(tmp_path / "coco"), to="coco")
    with pytest.raises(DatasetError, match="takes Pascal VOC only"):
        accuracy.cross_validate(tmp_path / "coco", str(backbone))


def test_every_picture_is_in_one_fold_whatever_their_order() -> None:
    names = [f"{number}.jpg" for number in range(22)]
    folds = accuracy.divide(names)
    assert sorted(name for fold in folds for name in fold) == sorted(names)
    assert [len(fold) for fold in folds] == [6, 6, 5, 5]
    assert accuracy.divide(names[::-1]) == folds


FIGURES = {
    *("side", "round", "images_per_s", "step_ms", "split_ms", "peak_memory_mib", "final_loss"),
    *("map_50", "coco_ap", "steps", "wall_s"),
}


def test_training_speed_runs_with_only_torch_torchvision_numpy_pillow_and_safetensors(
    cache_dir, tmp_path
) -> None:
    arguments = ["--device", "cpu", "--quick", "--json", "--cache", str(cache_dir)]
    given = json.dumps(
        [
            sorted(beyond(BARE)),
            "benchmarks.training_speed",
            [*arguments, "--folder", str(tmp_path)],
        ]
    )
    done = subprocess.run(
        [sys.executable, "-c", BARE_PYTHON, given], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout.splitlines()[-1])
    assert [one["side"] for one in printed["results"]] == [PLAIN, OURS]
    assert printed["left_out"] == dict.fromkeys(
        (RAY_ONE, RAY_ONE_THREAD, RAY_TWO), "Ray is not installed"
    )
    assert "faster-coco-eval" in printed["coco"]
    plain, ours = printed["results"]
    assert set(plain) == set(ours) == FIGURES
    assert set(plain["split_ms"]) == {"data", "forward", "backward", "optimizer"}
    assert set(ours["split_ms"]) == {"data", "compute", "between"}
    for one in (plain, ours):
        assert sum(one["split_ms"].values()) == pytest.approx(one["step_ms"], rel=0.1)
        assert one["images_per_s"] == pytest.approx(2000 / one["step_ms"])
        assert 0 <= one["map_50"] <= 1
        assert one["final_loss"] > 0
    ratio = ours["images_per_s"] / plain["images_per_s"]
    assert printed["ratios"] == {
        "ours_to_plain": {"median": pytest.approx(ratio), "rounds": [pytest.approx(ratio)]},
        "ray_one_to_ours": None,
        "two_workers_to_one": None,
    }


@pytest.mark.slow  # Three trainings on Ray take minutes; what they run is tested on its own.
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("ray_cluster")
def test_training_speed_compares_with_ray_train(cache_dir, tmp_path, monkeypatch, capsys) -> None:
    sides = ",".join((OURS, RAY_ONE, RAY_TWO))
    arguments = ["--device", "cpu", "--quick", "--sides", sides, "--cache", str(cache_dir)]
    arguments += ["--folder", str(tmp_path), "--json"]
    monkeypatch.setattr(sys, "argv", ["training_speed", *arguments])
    training_speed.main()
    printed = last_line(capsys)
    assert printed["left_out"] == dict.fromkeys((PLAIN, RAY_ONE_THREAD), "not asked for")
    assert ",".join(one["side"] for one in printed["results"]) == sides
    ours, one, two = printed["results"]
    # On the same threads it learns the same, but for the last digits of what Ray's side has recorded.
    assert one["final_loss"] == pytest.approx(ours["final_loss"], rel=1e-3)
    for of_ray in (one, two):
        assert set(of_ray) == FIGURES
        assert of_ray["steps"] == 4
        assert of_ray["final_loss"] > 0
        assert of_ray["step_ms"] / 1000 * 3 < of_ray["wall_s"]
        assert sum(of_ray["split_ms"].values()) == pytest.approx(of_ray["step_ms"])
        assert of_ray["split_ms"]["compute"] > of_ray["split_ms"]["data"] >= 0
    speedup = one["images_per_s"] / ours["images_per_s"]
    assert printed["ratios"] == {
        "ours_to_plain": None,
        "ray_one_to_ours": {"median": pytest.approx(speedup), "rounds": [pytest.approx(speedup)]},
        "two_workers_to_one": None,
    }
    assert json.loads((tmp_path / "training_speed.json").read_text())["ratios"] == printed["ratios"]


def quick_bench(cache_dir, **changes) -> Bench:
    case = case_of(COMPACT, "cpu", quick=True)
    images = draw_pictures(PictureSet("train", case.train_pictures, case.size_wh), cache_dir)
    bench = Bench(COMPACT, case, CPU, "none", "float32", 0, images, ())
    return replace(bench, **changes)


def candidates(bench: Bench) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The first picture and its boxes as they are, and flipped, made without torchvision's transforms."""
    image = bench.train_images[0]
    pixels = np.asarray(Image.open(image.storage_path).convert("RGB")).transpose(2, 0, 1) / 255
    x1, y1, x2, y2 = image.boxes_xyxy.T
    width = image.size_hw[1]
    flipped = np.stack([width - x2, y1, width - x1, y2], axis=1)
    return [
        (torch.tensor(pixels, dtype=torch.float32), torch.tensor(image.boxes_xyxy)),
        (torch.tensor(pixels[..., ::-1].copy(), dtype=torch.float32), torch.tensor(flipped)),
    ]


def sampling_all(network):
    """Learns from every anchor and every region, so that no chance is left but the flip."""
    for sampler in (network.rpn.fg_bg_sampler, network.roi_heads.fg_bg_sampler):
        sampler.batch_size_per_image, sampler.positive_fraction = 10**6, 0.5
    return network


def test_a_step_of_the_plain_loop_is_the_one_worked_out_by_hand(cache_dir) -> None:
    # Its weights are zero, or what a thousandth of the rate moves would be lost in rounding.
    moving = "rpn.head.cls_logits.bias"
    bench = quick_bench(cache_dir)
    plan = bench.plan(seed=0)

    def beginning():
        network = sampling_all(plan.build_network()).train()
        torch.nn.init.zeros_(network.get_parameter(moving))
        return network

    start = beginning().state_dict()
    ids = torch.tensor([LABEL_MAP.id_of(name) for name in bench.train_images[0].label_names])
    expected = []
    for pixels, boxes_xyxy in candidates(bench):
        network = beginning()
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.eval()
        loss = sum(network([pixels], [{"boxes": boxes_xyxy, "labels": ids}]).values())
        loss.backward()
        expected.append((loss.item(), network.get_parameter(moving).grad))
    seen = set()
    for seed in range(8):
        trained = beginning()
        settings = PlainSettings(1, 1, train_batch_norm=False, loader_workers=0, seed=seed)
        (loss,), _ = train_plainly(
            trained, bench.train_images[:1], LABEL_MAP, settings, Window(1, 0, CPU)
        )
        flip = min((0, 1), key=lambda which: abs(expected[which][0] - loss))
        seen.add(flip)
        assert loss == pytest.approx(expected[flip][0], rel=1e-5)
        # A thousandth of a sixteenth of 0.02 in the first step.
        rate = 0.02 / 16 / 1000
        torch.testing.assert_close(
            trained.state_dict()[moving], -rate * expected[flip][1], rtol=1e-3, atol=0
        )
        statistics = [key for key in start if key.endswith(("running_mean", "running_var"))]
        assert all(torch.equal(trained.state_dict()[key], start[key]) for key in statistics)
    assert seen == {0, 1}


def test_the_rates_of_the_plain_loop_are_those_of_the_reference_script() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.5)
    schedule = plain_loop._schedule(optimizer, steps=26, steps_of_a_pass=5)
    rates = []
    for _ in range(26):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    # From a thousandth in a line, all of it from the fifth step on; a tenth after 16 and after 22.
    shares = [0.001 + 0.999 * step / 4 for step in range(4)]
    shares += [1.0] * 12 + [0.1] * 6 + [0.01] * 4
    assert rates == pytest.approx([0.5 * share for share in shares])


def test_the_plain_loop_takes_every_picture_once_a_pass() -> None:
    settings = PlainSettings(5, 2, train_batch_norm=True, loader_workers=0, seed=1)
    batches = plain_loop._order(5, settings)
    assert [len(batch) for batch in batches] == [2] * 5
    for one_pass in (batches[0:2], batches[2:4]):
        assert len({index for batch in one_pass for index in batch}) == 4
    assert plain_loop._order(5, settings) == batches
    assert plain_loop._order(5, replace(settings, seed=2)) != batches


def test_the_plain_loop_stops_where_the_loss_is_not_finite(cache_dir) -> None:
    bench = quick_bench(cache_dir)
    network = bench.plan(seed=0).build_network()
    torch.nn.init.constant_(network.rpn.head.cls_logits.bias, float("nan"))
    settings = PlainSettings(1, 2, train_batch_norm=True, loader_workers=0, seed=0)
    with pytest.raises(TrainingError, match="plain loop is not finite: step 1"):
        train_plainly(network, bench.train_images, LABEL_MAP, settings, Window(1, 0, CPU))


def test_our_recipe_differs_from_the_commands_in_augmentation_alone(cache_dir, backbone) -> None:
    bench = quick_bench(cache_dir, init=str(backbone))
    config = bench.plan(seed=5).config
    assert (config.scale_jitter, config.colour_jitter, config.flip) == (0, 0, 0.5)
    assert (config.optimizer, config.learning_rate, config.frozen_stages) == ("adamw", 5e-4, 1)
    assert config.train_batch_norm is False
    assert (config.seed, config.steps, config.batch_size) == (5, 4, 2)


def test_ratios_are_the_medians_of_those_of_the_rounds() -> None:
    speeds = {PLAIN: (1.0, 2.0, 4.0), OURS: (2.0, 2.0, 12.0), RAY_ONE: (1.0, 1.0)}
    results = [
        {"side": side, "round": number, "images_per_s": speed}
        for side, each in speeds.items()
        for number, speed in enumerate(each, 1)
    ]
    assert ratios(results) == {
        "ours_to_plain": {"median": 2.0, "rounds": [2.0, 1.0, 3.0]},
        "ray_one_to_ours": {"median": 0.5, "rounds": [0.5, 0.5]},
        "two_workers_to_one": None,
    }


def test_the_split_of_a_step_adds_up() -> None:
    split = split_of([(1.0, 0.2), (3.0, 0.4)], 2.5)
    assert split == {
        "data": pytest.approx(0.3),
        "compute": pytest.approx(1.7),
        "between": pytest.approx(0.5),
    }


def test_phases_and_window_leave_the_warm_up_out() -> None:
    window, phases = Window(3, 1, CPU), Phases(("long", "short"), CPU)
    ended_s = []
    for step, long_s in enumerate((0.2, 0.02, 0.04), 1):
        phases.begin_step()
        _work(long_s)
        phases.end_phase()
        phases.end_phase()
        window.step_done(step)
        ended_s.append(time.perf_counter())
    # A step that is not the warm-up, whose end is noted a moment later; a busy machine takes its own time.
    whole_s = (ended_s[2] - ended_s[0]) / 2 + 0.01
    assert 0.03 <= window.step_s < whole_s
    mean_s = phases.mean_s(1)
    assert 0.03 <= mean_s["long"] <= mean_s["long"] + mean_s["short"] < whole_s


def _work(seconds: float) -> None:
    until_s = time.perf_counter() + seconds
    while time.perf_counter() < until_s:
        pass


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--steps", "1"], "No step is left to time"),
        (["--batch", "5"], "A batch has more pictures than there are"),
        (["--arch", "compact,fasterrcnn_resnet50_fpn"], "One architecture at a time"),
        (["--sides", "abacus"], "abacus is none of plain, ours, ray_one"),
        (["--init", "none", "--backbone", "abacus"], "Unknown backbone"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, told, cache_dir, tmp_path, monkeypatch, capsys):
    given = ["--quick", "--device", "cpu", "--cache", str(cache_dir), "--folder", str(tmp_path)]
    given += ["--sides", "plain"]
    monkeypatch.setattr(sys, "argv", ["training_speed", *given, *arguments])
    with pytest.raises(SystemExit) as stopped:
        training_speed.main()
    assert stopped.value.code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]

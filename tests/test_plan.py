"""What is decided before training: from data, wishes and machine, the same from flags, YAML and Python."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import yaml
from factories import TINY, plan_for

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.cli.training_settings import read_settings
from appliance.errors import ConfigError
from appliance.labels import LabelMap
from appliance.model.spec import ModelSpec
from appliance.training import decisions, memory
from appliance.training.plan import TrainingPlan, plan_training, settings_for

LABELS = LabelMap(("thing",))
OPEN = frozenset({"batch_size", "accumulation_steps", "validate_every_steps"})


def pictures(size_hw, box_wh, count=30) -> list[AnnotatedImage]:
    rng = np.random.default_rng(1)
    room = np.array([size_hw[1] - box_wh[0], size_hw[0] - box_wh[1]])
    corners = rng.random((count, 2)) * room
    boxes = np.concatenate([corners, corners + box_wh], axis=1)
    return [
        AnnotatedImage("x.jpg", "x.jpg", size_hw, box[None], ("thing",), np.zeros(1, bool))
        for box in boxes
    ]


def plan(shown=(), init="none", **arguments) -> TrainingPlan:
    settings = {"images": len(shown) or 10, "dataset_digest": "", "pictures": shown}
    config = arguments.pop("config", None) or settings_for(init)
    return plan_training(LABELS, config=config, init=init, **{**settings, **arguments})


def why(decided: TrainingPlan) -> dict[str, str]:
    return {one.name: f"{one.value}: {one.reason}" for one in decided.decisions}


def test_sane_data_keep_the_settings_of_a_run_without_a_look_at_them() -> None:
    images = pictures((600, 800), (120, 90))
    looked, blind = plan(images, open_settings=OPEN), plan()
    assert looked.spec == blind.spec == ModelSpec.of(LABELS)
    assert replace(looked.config, steps=blind.steps) == blind.config
    assert "good enough: mean best IoU" in why(looked)["anchors"]
    assert "large enough" in why(looked)["input size, pixels"]
    assert TrainingPlan.from_json(looked.to_json()) == looked


def test_sample_scenes_and_the_recipes_keep_what_they_have(tiny_scenes) -> None:
    looked = plan_training(
        tiny_scenes.label_map,
        images=len(tiny_scenes),
        dataset_digest="",
        config=settings_for("none"),
        pictures=tiny_scenes.images,
        open_settings=OPEN,
        shorter_side_px=288,
    )
    assert looked.spec == ModelSpec.of(tiny_scenes.label_map, shorter_side_px=288)
    assert (looked.config.batch_size, looked.config.learning_rate) == (2, 1e-3)
    assert (looked.config.accumulation_steps, looked.config.validate_every_steps) == (1, 0)


def test_small_flat_objects_get_a_larger_input_and_anchors_of_their_own() -> None:
    images = pictures((1500, 2000), (60, 6))
    decided = plan(images)
    assert decided.spec.shorter_side_px > 384
    assert max(decided.spec.anchor_ratios) < 0.3
    assert " -> " in why(decided)["anchors"]
    assert "small objects" in why(decided)["input size, pixels"]
    wished = plan(images, shorter_side_px=320, anchor_sizes_px=(9, 30, 60))
    assert (wished.spec.shorter_side_px, wished.spec.anchor_sizes_px) == (320, (9, 30, 60))
    assert wished.spec.anchor_ratios == (0.5, 1.0, 2.0)
    assert "as given" in why(wished)["anchors"]
    assert "as given" in why(wished)["input size, pixels"]
    resnet = plan(images, architecture="fasterrcnn_mobilenet_v3_large_320_fpn")
    assert "architecture's" in why(resnet)["anchors"]
    assert "architecture's" in why(resnet)["input size, pixels"]


def test_a_model_file_to_start_from_keeps_its_own_network(tiny_model_path) -> None:
    images = pictures((1500, 2000), (60, 6))
    decided = plan(images, init=str(tiny_model_path))
    assert (decided.spec.shorter_side_px, decided.spec.anchor_sizes_px) == (96, (16, 32, 64))
    assert "those of the starting weights" in why(decided)["anchors"]
    assert "that of the starting weights" in why(decided)["input size, pixels"]


def test_pictures_without_any_object_leave_the_standard_network() -> None:
    empty = [
        replace(image, boxes_xyxy=np.zeros((0, 4)), label_names=(), difficult=np.zeros(0, bool),
                truncated=np.zeros(0, bool), crowd=np.zeros(0, bool))
        for image in pictures((300, 400), (20, 20), count=3)
    ]  # fmt: skip
    assert plan(empty).spec == ModelSpec.of(LABELS)


@pytest.mark.parametrize(
    ("images", "wishes", "steps"),
    [
        (20, {}, 300),  # 30 passes, 2 a step
        (1000, {}, 15000),
        (4000, {}, 30000),  # 15 passes
        (100_000, {}, 600_000),  # 12 passes
        (7, {"batch_size": 4}, 53),
        (7, {"batch_size": 4, "epochs": 3}, 6),  # 21 pictures
        (7, {"steps": 11}, 11),
    ],
)
def test_steps_follow_the_number_of_pictures(images, wishes, steps) -> None:
    decided = plan(config=settings_for("none", **wishes), images=images)
    assert (decided.steps, decided.config.epochs) == (steps, None)


def test_every_worker_gets_a_picture_unless_the_batch_was_wished() -> None:
    assert plan(workers=3, open_settings=OPEN).config.batch_size == 6
    assert plan(workers=2, open_settings=OPEN).config.batch_size == 2
    assert plan(workers=3).config.batch_size == 2


def test_a_batch_that_does_not_fit_is_computed_in_parts(monkeypatch) -> None:
    images = pictures((600, 800), (120, 90))
    need = memory.estimate(ModelSpec.of(LABELS), settings_for("none"), (384, 512))
    monkeypatch.setattr(
        memory, "usable_bytes", lambda device, workers: need.of_batch(3) + need.picture_bytes // 2
    )
    config = settings_for("none", batch_size=8)
    decided = plan(images, config=config, open_settings=OPEN)
    assert (decided.config.batch_size, decided.config.accumulation_steps) == (8, 3)
    assert "3 at once in 3 parts" in why(decided)["memory"]
    wished = plan(images, config=config, open_settings=OPEN - {"accumulation_steps"})
    assert wished.config.accumulation_steps == 1
    assert "hardly fit" in why(wished)["memory"]
    monkeypatch.setattr(memory, "usable_bytes", lambda device, workers: None)
    assert "unknown" in why(plan(images, config=config, open_settings=OPEN))["memory"]


def test_the_memory_of_this_machine_is_shared_by_its_workers() -> None:
    usable = memory.usable_bytes(torch.device("cpu"))
    half = memory.usable_bytes(torch.device("cpu"), workers=2)
    assert usable is not None
    assert half is not None
    assert 0.3 * usable < half < 0.7 * usable
    small = memory.estimate(ModelSpec.of(LABELS), settings_for("none"), (96, 96))
    large = memory.estimate(ModelSpec.of(LABELS), settings_for("none"), (192, 192))
    assert large.picture_bytes == pytest.approx(4 * small.picture_bytes, rel=0.01)
    assert large.fixed_bytes == small.fixed_bytes
    assert small.most_pictures(small.of_batch(5)) == 5
    assert small.most_pictures(0) == 0
    sgd = memory.estimate(ModelSpec.of(LABELS), settings_for("none", optimizer="sgd"), (96, 96))
    weights = sum(
        p.numel() * 4
        for p in plan(config=settings_for("none", steps=1)).build_network().parameters()
    )
    assert small.fixed_bytes - sgd.fixed_bytes == weights  # one state less for each weight


def test_the_recipe_is_told_from_wishes() -> None:
    told = why(plan(open_settings={"learning_rate"}, config=settings_for("none", optimizer="sgd")))
    assert told["optimizer"] == "sgd: as given"
    assert told["learning rate"] == "0.001, cosine: the recipe for random weights"
    stages = settings_for("none", learning_rate_stages=((3, 0.1),))
    assert "0.001, then in stages" in why(plan(config=stages))["learning rate"]


def test_validation_comes_ten_times_unless_wished() -> None:
    config = settings_for("none", steps=95)
    every = {
        wished.config.validate_every_steps
        for wished in (
            plan(config=config, validation_images=3, open_settings=OPEN),
            plan(config=replace(config, validate_every_steps=7), validation_images=3),
            plan(config=config, open_settings=OPEN),
        )
    }
    assert every == {10, 7, 0}
    patient = plan(config=replace(config, patience=2), validation_images=3)
    assert "stops after 2 without a better one" in why(patient)["validation"]
    in_vain = plan(config=replace(config, patience=2))
    assert why(in_vain)["validation"] == "none: no validation data, so that patience stops nothing"


def test_flags_a_file_assignments_and_python_give_the_same_plan(tmp_path, tiny_scenes) -> None:
    wishes = {"steps": 9, "learning_rate": 0.003, "schedule": "constant", "precision": "float32"}
    network = {**TINY, "anchor_ratios": (0.4, 1.0, 2.0)}
    path = tmp_path / "train.yaml"
    plain = {key: list(v) if isinstance(v, tuple) else v for key, v in network.items()}
    path.write_text(yaml.safe_dump({**wishes, **plain}))
    texts = [f"{key.replace('_', '-')}={value}" for key, value in {**wishes, **plain}.items()]
    found = [
        read_settings("none", None, wishes, network_flags=network),
        read_settings("none", str(path), {}, network_flags={"backbone": None}),
        read_settings("none", None, {}, assignments=texts),
    ]
    plans = [
        plan_training(
            tiny_scenes.label_map,
            images=6,
            dataset_digest="",
            config=settings.training,
            pictures=tiny_scenes.images,
            open_settings=settings.open_settings,
            **settings.network,
        )
        for settings in found
    ]
    python = plan_training(
        tiny_scenes.label_map,
        images=6,
        dataset_digest="",
        config=settings_for("none", **wishes),
        pictures=tiny_scenes.images,
        open_settings=OPEN,
        **network,
    )
    for other in plans:
        assert (other.spec, other.config) == (python.spec, python.config)
    assert plan_for(tiny_scenes, steps=9).spec.anchor_ratios == (0.5, 1.0, 2.0)


def test_who_says_steps_does_not_mean_epochs(tmp_path) -> None:
    path = tmp_path / "train.yaml"
    path.write_text("epochs: 3\n")
    settings = read_settings("none", str(path), {"steps": 5}).training
    assert (settings.steps, settings.epochs) == (5, None)
    settings = read_settings("none", str(path), {}).training
    assert (settings.steps, settings.epochs) == (None, 3)


@pytest.mark.parametrize(
    ("assignment", "sentence"),
    [
        ("steps", r"--set is wrong .*expected NAME=VALUE"),
        ("steps=[", "--set is wrong"),
        ("stepps=3", r"Unknown setting: --set \(got 'stepps'\). Did you mean 'steps'"),
        ("steps=many", "steps is wrong: --set"),
        ("anchor_sizes_px=[1, 2]", "anchor_sizes_px.* is wrong: --set"),
        ("labels=[a]", "Unknown setting: --set"),
    ],
)
def test_a_wrong_assignment_is_one_sentence(assignment, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_settings("none", None, {}, assignments=[assignment])


def test_passes_fall_from_thirty_to_a_dozen() -> None:
    assert [decisions.passes_for(n) for n in (1, 1000, 4000, 10**6)] == [30, 30, 15, 12]

"""`FasterRCNN`, as a script written for the 2018 package uses it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from factories import jpeg_bytes

import appliance
from appliance import FasterRCNN, ObjectDetectionDataset
from appliance.detections import Detections
from appliance.errors import ConfigError, ImageError, LabelError, ModelFileError
from appliance.images.decoding import decode_image
from appliance.model import model_file
from appliance.model.predictor import Predictor
from appliance.training.config import TrainingConfig


@pytest.fixture(scope="module")
def trained(tiny_scenes, tiny_model_path, tmp_path_factory) -> FasterRCNN:
    """A detector after two steps from the tiny model's weights."""
    detector = FasterRCNN(
        tiny_scenes.labels,
        score_threshold=0.0,
        max_total_detections=20,
        init=str(tiny_model_path),
        run_dir=tmp_path_factory.mktemp("run"),
        device="cpu",
    )
    detector.train(tiny_scenes, num_steps=2, initial_learning_rate=0.001, progress=False)
    return detector


@pytest.fixture
def picture(tiny_scenes) -> str:
    return tiny_scenes.images[0].storage_path


def test_class_map_counts_from_1_in_the_order_of_the_labels(trained, tiny_scenes) -> None:
    names = [label.name for label in tiny_scenes.labels]
    assert trained.class_map == {name: index for index, name in enumerate(names, start=1)}
    assert [label.name for label in trained.labels] == names


def test_training_leaves_tensorboard_files_in_train_dir(trained) -> None:
    assert list(Path(trained.train_dir).glob("events.*"))


def test_evaluate_answers_with_the_keys_of_the_contract(trained, tiny_scenes_dir) -> None:
    test_set = ObjectDetectionDataset.create_from_dir(
        "test", tiny_scenes_dir / "test", labels=trained.labels
    )
    found = trained.evaluate(test_set)
    present = {name for image in test_set.images for name in image.label_names}
    for name in present:
        assert 0 <= found[f"PASCAL/PerformanceByCategory/AP@0.5IOU/{name}"] <= 1
    assert 0 <= found["PASCAL/Precision/mAP@0.5IOU"] <= 1
    assert list(Path(trained.eval_dir).glob("events.*"))


@pytest.mark.parametrize("dataset", [None, "data/test", []])
@pytest.mark.parametrize("use", [FasterRCNN.train, FasterRCNN.evaluate], ids=["train", "evaluate"])
def test_what_is_no_data_set_is_refused(trained, use, dataset) -> None:
    with pytest.raises(ConfigError, match="This is no data set") as caught:
        use(trained, dataset)
    assert f"got {dataset!r}, expected an ObjectDetectionDataset" in str(caught.value)


def test_score_gives_one_dict_for_a_path_and_a_list_for_a_list(trained, picture) -> None:
    scored = trained.score(picture)
    assert trained.score([picture, picture]) == [scored, scored]
    boxes = np.array(scored["detection_boxes"])
    assert 0 < scored["num_detections"] == len(boxes) <= 20
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    top, left, bottom, right = boxes.T
    assert ((top < bottom) & (left < right)).all()
    assert scored["detection_scores"] == sorted(scored["detection_scores"], reverse=True)
    assert set(scored["detection_classes"]) <= set(range(1, 9))


@pytest.mark.parametrize(
    ("images", "told"),
    [
        (None, "NoneType None"),
        (7, "int 7"),
        (b"pixels", "bytes b'pixels'"),
        (np.zeros((2, 2, 3)), "ndarray array"),
        ([None], "NoneType None"),
    ],
)
def test_what_is_no_path_of_a_picture_is_refused(trained, images, told) -> None:
    with pytest.raises(ConfigError, match="This is no picture") as caught:
        trained.score(images)
    assert f"(got {told}" in str(caught.value)
    assert str(caught.value).endswith("expected the path or URI of a file, or a list of them)")


def test_save_and_load_give_the_same_scores(trained, picture, tmp_path) -> None:
    trained.save(tmp_path / "faster_rcnn.model")
    loaded = FasterRCNN.load(tmp_path / "faster_rcnn.model")
    assert loaded.score(picture) == trained.score(picture)
    assert loaded.class_map == trained.class_map


def test_a_result_from_the_web_service_is_parsed_back(trained, picture) -> None:
    scored = trained.score(picture)
    assert FasterRCNN.parse_serialized_result(json.dumps(scored)) == scored
    size_hw = decode_image(Path(picture).read_bytes(), source="x").size_hw
    found = Detections.from_score_dict(scored, size_hw)
    np.testing.assert_allclose(found.boxes_xyxy, trained.detect(picture).boxes_xyxy, atol=1e-3)


def test_visualize_returns_axes_and_saves_the_picture(trained, picture, tmp_path) -> None:
    target = tmp_path / "scored.jpg"
    axes = appliance.visualize(
        picture, trained.score(picture), path_save=str(target), image_size=(4, 3)
    )
    assert axes.get_figure() is not None
    assert decode_image(target.read_bytes(), source="x").size_hw[0] > 100


def test_stages_after_the_first_rate_are_obeyed(tiny_scenes, tiny_model_path, tmp_path) -> None:
    detector = FasterRCNN(
        tiny_scenes.labels, init=str(tiny_model_path), run_dir=tmp_path, device="cpu"
    )
    detector.train(
        tiny_scenes,
        num_steps=3,
        initial_learning_rate=0.01,
        step1=1,
        learning_rate1=0.001,
        step2=2,
        learning_rate2=0.0001,
        progress=False,
    )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["learning_rate"] for line in lines] == [0.01, 0.001, 0.0001]
    with pytest.raises(ConfigError, match="step1, learning_rate1"):
        detector.train(tiny_scenes, num_steps=1, step1=1)
    with pytest.raises(ConfigError, match="step1 has the wrong type .got 'one'"):
        detector.train(tiny_scenes, num_steps=1, step1="one", learning_rate1=0.1)
    with pytest.raises(ConfigError) as caught:
        detector.train(tiny_scenes, num_step=3)
    assert str(caught.value) == (
        "Unknown argument (got num_step, expected dataset, num_steps, initial_learning_rate, batch_size, "
        "validation, config, resume, progress, or step1, learning_rate1, ...). Did you mean num_steps."
    )
    with pytest.raises(ConfigError, match="got colour, expected dataset, .*[.]{3}[)]$"):
        detector.train(tiny_scenes, colour="red")


def test_the_checkpoints_of_another_run_are_not_cleared_away(
    trained, tiny_scenes, tiny_model_path
) -> None:
    run_dir = Path(trained.train_dir).parent
    before = sorted(run_dir.rglob("step-*"))
    other = FasterRCNN(tiny_scenes.labels, init=str(tiny_model_path), run_dir=run_dir, device="cpu")
    with pytest.raises(ConfigError, match="holds a training run already"):
        other.train(tiny_scenes, num_steps=1, progress=False)
    assert sorted(run_dir.rglob("step-*")) == before != []


def test_a_run_that_was_killed_goes_on_to_the_same_weights(
    tiny_scenes, tiny_model_path, tmp_path
) -> None:
    config = TrainingConfig(steps=3, batch_size=2, checkpoint_every_steps=2)
    models = []
    for run_dir in (tmp_path / "once", tmp_path / "twice"):
        detector = FasterRCNN(
            tiny_scenes.labels, init=str(tiny_model_path), run_dir=run_dir, device="cpu"
        )
        with pytest.raises(ConfigError, match="There is no training run to go on with"):
            detector.train(tiny_scenes, config=config, resume=True, progress=False)
        detector.train(tiny_scenes, config=config, progress=False)
        models.append(detector)
    # As a process leaves it that is killed before the third step is kept.
    kept = sorted((tmp_path / "twice").rglob("step-*"))
    assert len(kept) == 2
    kept[-1].unlink()
    again = FasterRCNN(
        tiny_scenes.labels,
        init=str(tiny_model_path),
        run_dir=tmp_path / "twice",
        device="cpu",
    )
    again.train(tiny_scenes, config=config, resume=True, progress=False)
    lines = (tmp_path / "twice" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    once, twice = (model._trained[0].state_dict() for model in (models[0], again))
    assert all(torch.equal(once[name], twice[name]) for name in once)


def test_a_configuration_decides_what_the_call_leaves_open(
    tiny_scenes, tiny_model_path, tmp_path
) -> None:
    config = TrainingConfig(steps=1, batch_size=3, learning_rate=0.004)
    detector = FasterRCNN(
        tiny_scenes.labels, init=str(tiny_model_path), run_dir=tmp_path, device="cpu"
    )
    detector.train(
        tiny_scenes,
        config=config,
        initial_learning_rate=0.002,
        validation=tiny_scenes,
        progress=False,
    )
    detector.save(tmp_path / "m.safetensors")
    used = model_file.load(str(tmp_path / "m.safetensors")).info.training
    assert (used["steps"], used["batch_size"], used["learning_rate"]) == (1, 3, 0.002)
    (validated,) = (tmp_path / "validation.jsonl").read_text().splitlines()
    assert json.loads(validated)["step"] == 1
    assert 0 <= json.loads(validated)["map_50"] <= 1


def test_without_a_network_training_starts_from_random_weights_and_says_so(
    tiny_scenes, tmp_path, monkeypatch, caplog
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # refuses at once
    detector = FasterRCNN(tiny_scenes.labels, run_dir=tmp_path / "run", device="cpu")
    with pytest.raises(ConfigError, match="steps is out of range .got 0"):
        detector.train(tiny_scenes, num_steps=0, progress=False)
    assert caplog.text == ""  # before anything was downloaded
    detector.train(tiny_scenes, num_steps=1, progress=False)
    first, second = caplog.messages[:2]
    assert first.startswith("downloading https://download.pytorch.org/models/resnet18")
    assert "MB) to " in first
    assert second.endswith("Training starts from random weights.")


def test_a_detector_that_was_not_trained_says_so(tiny_scenes, picture) -> None:
    detector = FasterRCNN(tiny_scenes.labels)
    with pytest.raises(ModelFileError, match="not trained yet"):
        detector.score(picture)


def test_a_label_the_detector_was_not_made_for_is_named(tiny_scenes) -> None:
    with pytest.raises(LabelError, match="eggBox.*expected one of circle"):
        FasterRCNN(["circle"]).train(tiny_scenes, num_steps=1)


def test_wrong_settings_are_refused_before_training() -> None:
    with pytest.raises(ConfigError, match="score_threshold"):
        FasterRCNN(["a"], score_threshold=2.0)
    with pytest.raises(ConfigError, match="architecture"):
        FasterRCNN(["a"], architecture="yolo")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"score_threshold": float("nan")}, "score_threshold is out of range .got nan"),
        ({"score_threshold": "high"}, "score_threshold has the wrong type .got 'high'"),
        ({"max_total_detections": 2.5}, "max_detections has the wrong type .got 2.5"),
        ({"max_total_detections": True}, "expected a whole number"),
        ({"device": "gpu"}, "Unknown device .got gpu"),
        ({"init": "imgnet"}, "no such starting weights .* Did you mean imagenet"),
    ],
)
def test_settings_are_checked_when_they_are_given(settings, told) -> None:
    with pytest.raises(ConfigError, match=told):
        FasterRCNN(["a"], **settings)


def test_settings_of_numpy_are_saved(tiny_model_path, tmp_path) -> None:
    detector = FasterRCNN.load(tiny_model_path)
    network, spec, info = detector._model()
    spec = spec.with_settings(score_threshold=np.float32(0.5), max_detections=np.int64(7))
    detector._trained = network, spec, info
    detector.save(tmp_path / "m.safetensors")
    saved = model_file.load(str(tmp_path / "m.safetensors")).spec
    assert (saved.score_threshold, saved.max_detections) == (0.5, 7)


@pytest.mark.parametrize("path", [None, 7, b"m.safetensors"])
def test_what_is_no_path_of_a_model_is_refused(trained, path) -> None:
    for use in (FasterRCNN.load, trained.save):
        with pytest.raises(ConfigError, match="This is no place for a model file"):
            use(path)


def test_a_device_is_looked_for_before_the_model_is_read(tmp_path) -> None:
    with pytest.raises(ConfigError, match="Unknown device"):
        FasterRCNN.load(tmp_path / "nowhere.safetensors", device="gpu")


@pytest.mark.parametrize("text", ["", "not JSON", "7", None])
def test_what_is_no_result_is_refused(text) -> None:
    with pytest.raises(ConfigError, match="This is no answer for one picture"):
        FasterRCNN.parse_serialized_result(text)


def test_a_broken_picture_is_an_error_with_its_name(trained, tmp_path) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(jpeg_bytes()[:100])
    with pytest.raises(ImageError, match=r"broken\.jpg"):
        trained.score(path)


def test_detector_and_predictor_agree(trained, picture, tmp_path) -> None:
    trained.save(tmp_path / "m.safetensors")
    predictor = Predictor.load(str(tmp_path / "m.safetensors"), device="cpu")
    image = decode_image(Path(picture).read_bytes(), source="x")
    np.testing.assert_array_equal(
        predictor.predict([image])[0].boxes_xyxy, trained.detect(picture).boxes_xyxy
    )


def test_unknown_names_of_the_package_are_attribute_errors() -> None:
    assert "FasterRCNN" in dir(appliance)
    with pytest.raises(AttributeError, match="RCNNFaster"):
        appliance.RCNNFaster  # noqa: B018

"""`appliance evaluate` and `appliance compare` as users type them, with models and with detections made elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from factories import picture
from registry_cases import registered

from appliance.cli.detecting import name_of_data
from appliance.labels import LabelMap
from appliance.model import model_file

SIZE_WH = (96, 64)
CIRCLE, SQUARE = (4, 4, 24, 24), (50, 30, 80, 60)
PICTURES = 8


@pytest.fixture(scope="module")
def coco_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A COCO folder: eight pictures, a circle on each and a square on all but the last."""
    folder = tmp_path_factory.mktemp("coco") / "test"
    (folder / "images").mkdir(parents=True)
    images, annotations = [], []
    for index in range(PICTURES):
        name = f"shelf {index}.png"
        picture(SIZE_WH, seed=index).save(folder / "images" / name)
        images.append({"id": 100 + index, "file_name": name, "width": 96, "height": 64})
        for category, (x1, y1, x2, y2) in ((7, CIRCLE), (3, SQUARE))[: 1 + (index < PICTURES - 1)]:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": 100 + index,
                    "category_id": category,
                    "bbox": [x1, y1, x2 - x1, y2 - y1],
                    "area": (x2 - x1) * (y2 - y1),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": 7, "name": "circle"}, {"id": 3, "name": "square"}]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations").mkdir()
    (folder / "annotations" / "instances.json").write_text(json.dumps(document))
    return folder


def write_detections(path: Path, squares: int) -> Path:
    """Every circle found, and the squares of the first so many pictures; by the ids of the data."""
    rows: list[dict[str, Any]] = []
    for index in range(PICTURES):
        for category, (x1, y1, x2, y2) in ((7, CIRCLE), (3, SQUARE))[: 1 + (index < squares)]:
            box = [x1, y1, x2 - x1, y2 - y1]
            rows.append(
                {"image_id": 100 + index, "category_id": category, "bbox": box, "score": 0.9}
            )
    path.write_text(json.dumps(rows))
    return path


@pytest.fixture(scope="module")
def other_model_path(tiny_model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with its classes the other way round and another name for one of them."""
    loaded = model_file.load(str(tiny_model_path))
    labels = LabelMap(("square", "star"))
    spec = type(loaded.spec)(**{**vars(loaded.spec), "labels": labels.names})
    path = tmp_path_factory.mktemp("model") / "other.safetensors"
    model_file.save(str(path), loaded.network, spec)
    return path


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


def test_detections_made_elsewhere_are_measured_and_reported(
    run_appliance, coco_dir, tmp_path, capsys
) -> None:
    detections = write_detections(tmp_path / "theirs.json", squares=4)
    report = tmp_path / "report"
    arguments = ("evaluate", "--predictions", detections, coco_dir)
    assert run_appliance(*arguments, "-o", report, "--eval-dir", tmp_path / "eval") == 0
    shown = capsys.readouterr().out
    assert f"Report: {report}/index.html" in shown
    assert "mAP@0.5 0.7857" in shown
    document = json.loads((report / "metrics.json").read_text())
    assert document["PASCAL/PerformanceByCategory/AP@0.5IOU/circle"] == 1.0
    assert document["PASCAL/PerformanceByCategory/AP@0.5IOU/square"] == pytest.approx(4 / 7)
    assert document["speed"] is None
    page = (report / "index.html").read_text()
    assert f"theirs on {coco_dir.parent.name}/test" in page
    assert list((tmp_path / "eval").iterdir())
    # What the report wrote has the ids of the data, and measures the same.
    rows = json.loads((report / "detections.json").read_text())
    assert {(row["category_id"], row["category_name"]) for row in rows} == {
        (7, "circle"),
        (3, "square"),
    }
    assert min(row["image_id"] for row in rows) == 100
    again = ("evaluate", "--predictions", report / "detections.json", coco_dir, "--json")
    assert run_appliance(*again) == 0
    assert printed(capsys)["analysis"] == document["analysis"]


def test_options_of_the_metric_are_heeded(run_appliance, coco_dir, tmp_path, capsys) -> None:
    detections = write_detections(tmp_path / "theirs.json", squares=4)
    options = ("--iou", 0.75, "--interpolation", "11-point", "--format", "coco", "--json")
    arguments = ("evaluate", "--predictions", detections, coco_dir, *options)
    assert run_appliance(*arguments, "--labels", "square, circle,milk") == 0
    document = printed(capsys)
    # The recalls 0, 0.1, ..., 0.5 of the eleven are reached with 4 of 7.
    assert document["PASCAL/PerformanceByCategory/AP@0.75IOU/square"] == pytest.approx(6 / 11)
    assert document["PASCAL/PerformanceByCategory/AP@0.75IOU/milk"] is None
    assert list(document["labels"]) == ["square", "circle", "milk"]


def test_a_model_is_measured_the_same_here_and_on_a_cluster(
    run_appliance, coco_dir, tiny_model_path, tmp_path, capsys, ray_cluster
) -> None:
    models = registered(tmp_path / "models", tiny_model_path).root_uri
    of_registry = ("evaluate", "shapes:1", coco_dir, "--json", "--registry", models)
    assert run_appliance(*of_registry, "-o", tmp_path / "report") == 0
    here = printed(capsys)
    assert here["speed"]["images_per_s"] > 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert "fasterrcnn_compact" in page
    assert f"shapes:1 on {coco_dir.parent.name}/test" in page
    assert "Milliseconds a picture" in page
    arguments = ("evaluate", tiny_model_path, coco_dir, "--json")
    assert run_appliance(*arguments, "--workers", 1, "--quiet") == 0
    there = printed(capsys)
    assert there["detections"] == here["detections"] > 0
    for name in ("map_50", "COCO/AP", "COCO/AR100"):
        assert there[name] == pytest.approx(here[name], abs=1e-3), name
    # Two models have a folder each for their scores.
    arguments = ("compare", "shapes", tiny_model_path, coco_dir, "--json", "--registry", models)
    scores = ("--workers", 1, "--scores", tmp_path / "scores", "--quiet", "--resamples", 10)
    assert run_appliance(*arguments, *scores) == 0
    compared = printed(capsys)["map"]
    assert compared["ap_a"] == compared["ap_b"] == there["map_50"]
    assert sorted(path.name for path in (tmp_path / "scores").iterdir()) == ["a", "b"]


def test_two_files_of_detections_are_compared(run_appliance, coco_dir, tmp_path, capsys) -> None:
    few = write_detections(tmp_path / "few.json", squares=1)
    all_of_them = write_detections(tmp_path / "all.json", squares=PICTURES - 1)
    assert run_appliance("compare", few, all_of_them, coco_dir, "--resamples", 200) == 0
    shown = capsys.readouterr().out
    assert "B is better than A: mAP@0.5 0.571 and 1.000, difference +0.429 with a 95 %" in shown
    assert "over 8 pictures; better on square." in " ".join(shown.split())
    assert run_appliance("compare", all_of_them, few, coco_dir, "--json") == 0
    document = printed(capsys)
    assert document["verdict"] == "worse"
    assert document["sentence"].startswith("B is worse than A")
    assert document["per_label"]["circle"]["verdict"] == "no difference shown"
    assert document["per_label"]["square"]["difference"] == pytest.approx(1 / 7 - 1)
    assert run_appliance("compare", few, few, coco_dir, "--labels", "circle,square") == 0
    shown = capsys.readouterr().out
    assert "These pictures show no difference between A and B" in shown
    assert "over 8 pictures." in " ".join(shown.split())


def test_models_with_other_classes_are_compared_on_all_of_them(
    run_appliance, coco_dir, tiny_model_path, other_model_path, capsys
) -> None:
    models = (tiny_model_path, other_model_path)
    assert run_appliance("compare", *models, coco_dir, "--resamples", 10, "--json") == 0
    compared = printed(capsys)["per_label"]
    assert list(compared) == ["circle", "square", "star"]
    assert compared["star"]["ap_a"] is None
    # B has never heard of circles, and calls squares what A calls circles.
    assert compared["circle"]["ap_b"] == 0.0
    assert run_appliance("evaluate", tiny_model_path, coco_dir, "--json") == 0
    assert compared["circle"]["ap_a"] == printed(capsys)["ap_50"]["circle"]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["evaluate", "FOLDER"], "expected MODEL DATA, or --predictions FILE DATA"),
        (
            ["evaluate", "m", "FOLDER", "--predictions", "d.json"],
            "got m FOLDER --predictions d.json",
        ),
        (["evaluate", "m", "FOLDER", "--iou", "0"], "--iou is out of range (got 0.0"),
        (["compare", "a", "b", "FOLDER", "--iou", "1.5"], "--iou is out of range (got 1.5"),
        (["evaluate", "--predictions", "nowhere.json", "FOLDER"], "Cannot read the file: nowhere"),
        (["compare", "nowhere.json", "x.json", "FOLDER"], "Cannot read the file: nowhere"),
        (["compare", "nowhere.safetensors", "x.json", "FOLDER"], "Cannot read the file: nowhere"),
        (
            ["evaluate", "m", "FOLDER", "--labels", "a,b"],
            "predictions files only (got a,b, expected",
        ),
        (["compare", "m", "x.json", "FOLDER", "--labels", "a"], "a model brings its own"),
        (
            ["evaluate", "--predictions", "d.json", "FOLDER", "--workers", "2"],
            "A predictions file needs no cluster. Leave --workers",
        ),
    ],
)
def test_a_mistake_is_one_sentence(
    run_appliance, coco_dir, capsys, arguments: list[str], sentence: str
) -> None:
    given = [str(coco_dir) if text == "FOLDER" else text for text in arguments]
    assert run_appliance(*given) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: ")
    assert sentence.replace("FOLDER", str(coco_dir)) in message or sentence in message


def test_data_is_named_as_people_call_it() -> None:
    assert name_of_data("/x/my_pictures/test") == "my_pictures/test"
    assert name_of_data("/x/my_pictures/Train/") == "my_pictures/Train"
    assert name_of_data("/x/my_pictures") == "my_pictures"
    assert name_of_data("s3://bucket/shelf/valid") == "shelf/valid"
    assert name_of_data("/x/my_pictures#val") == "my_pictures/val"
    assert name_of_data("/x/data.yaml") == "data.yaml"
    assert name_of_data("/") == "data"

"""From annotated pictures and detections to figures, error counts, TensorBoard and drawn pictures."""

from __future__ import annotations

import json
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from factories import picture
from matplotlib.figure import Figure
from PIL import ImageChops
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from appliance.annotations.dataset import AnnotatedImage
from appliance.detections import Detections
from appliance.errors import LabelError, StorageError
from appliance.evaluation.comparison import compare_pictures, read_picture, worst_first
from appliance.evaluation.error_counts import (
    DetectionEvaluation,
    count_errors,
    graph_error_counts,
)
from appliance.evaluation.evaluate import EvaluationResult, evaluate_detections, ground_truth_of
from appliance.evaluation.tensorboard import write_tensorboard
from appliance.labels import LabelMap

LABELS = LabelMap(("circle", "square"))
SIZE_HW = (64, 96)
LEFT, RIGHT, BOTTOM = (0, 0, 20, 20), (50, 0, 70, 20), (0, 40, 20, 60)


@pytest.fixture
def images(tmp_path: Path) -> list[AnnotatedImage]:
    """Three pictures: two objects, two objects one of which is difficult, none."""
    objects = [
        [(LEFT, "circle", False), (RIGHT, "square", False)],
        [(LEFT, "circle", False), (BOTTOM, "circle", True)],
        [],
    ]
    annotated = []
    for index, rows in enumerate(objects):
        path = tmp_path / f"{index}.png"
        picture(seed=index).save(path)
        annotated.append(
            AnnotatedImage(
                storage_path=str(path),
                name=path.name,
                size_hw=SIZE_HW,
                boxes_xyxy=np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
                label_names=tuple(label for _, label, _ in rows),
                difficult=np.array([difficult for _, _, difficult in rows], bool),
                annotation_path=str(path.with_suffix(".xml")),
            )
        )
    return annotated


@pytest.fixture
def detections() -> list[Detections]:
    """Picture 0: both found. 1: the difficult one, then one wrong; one missed. 2: two wrong."""
    return [
        found((LEFT, 0.9, 1), (RIGHT, 0.8, 2)),
        found((BOTTOM, 0.7, 1), (RIGHT, 0.3, 1)),
        found((LEFT, 0.6, 2), (RIGHT, 0.2, 2)),
    ]


@pytest.fixture
def result(images: list[AnnotatedImage], detections: list[Detections]) -> EvaluationResult:
    return evaluate_detections(images, detections, LABELS, scoring_s=1.5)


def found(*rows: tuple[tuple[int, int, int, int], float, int]) -> Detections:
    boxes, scores, class_ids = (np.array(column) for column in zip(*rows, strict=True))
    return Detections(boxes, scores, class_ids, SIZE_HW)


def test_evaluation_has_the_figures_of_hand_work(result: EvaluationResult) -> None:
    assert result.ap_50 == {"circle": 0.5, "square": 1.0}
    assert result.map_50 == 0.75
    assert (result.num_images, result.num_objects, result.num_detections) == (3, 3, 6)
    assert 1.5 <= result.duration_s < 3
    assert result.to_contract_dict() == {
        "PASCAL/PerformanceByCategory/AP@0.5IOU/circle": 0.5,
        "PASCAL/PerformanceByCategory/AP@0.5IOU/square": 1.0,
        "PASCAL/Precision/mAP@0.5IOU": 0.75,
    }


def test_evaluation_goes_into_json_as_it_stands(
    images: list[AnnotatedImage], detections: list[Detections]
) -> None:
    with_absent_label = LabelMap((*LABELS.names, "water"))
    document = evaluate_detections(images, detections, with_absent_label).to_json_dict()
    # allow_nan=False refuses NaN, which JSON does not have.
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["ap_50"] == {"circle": 0.5, "square": 1.0, "water": None}
    assert document["best"]["score_threshold"] == pytest.approx(0.8)
    assert document["best"]["recall"] == pytest.approx(2 / 3)
    assert document["labels"]["square"] == {
        "ap": 1.0,
        "objects": 1,
        "best": {
            "score_threshold": pytest.approx(0.8),
            "true_positives": 1,
            "false_positives": 0,
            "false_negatives": 0,
            "precision": 1.0,
            "recall": 1.0,
            "f1": 1.0,
        },
    }


def test_ground_truth_has_the_ids_of_the_model(images: list[AnnotatedImage]) -> None:
    swapped = LabelMap(("square", "circle"))
    truth = ground_truth_of(images[0], swapped)
    assert truth.class_ids.tolist() == [2, 1]
    assert truth.boxes_xyxy.tolist() == [list(LEFT), list(RIGHT)]
    assert truth.image_id == "0.png"
    assert ground_truth_of(images[1], swapped).difficult.tolist() == [False, True]
    assert len(ground_truth_of(images[2], swapped)) == 0


def test_label_that_the_model_does_not_know_names_file_and_label(
    images: list[AnnotatedImage], detections: list[Detections]
) -> None:
    with pytest.raises(LabelError) as caught:
        evaluate_detections(images, detections, LabelMap(("circle", "triangle")))
    assert str(caught.value) == (
        "A picture has a label that the model does not know: "
        f"{images[0].annotation_path} (got 'square', expected one of circle, triangle). "
        "Train with this label, or remove it from the data to evaluate on."
    )


def test_errors_are_counted_at_each_threshold(result: EvaluationResult) -> None:
    thresholds = [0.0, 0.25, 0.5, 0.85, 1.0]
    objects = count_errors(result.pascal.matches, thresholds)
    assert objects.wrong.tolist() == [3, 2, 1, 0, 0]
    assert objects.missed.tolist() == [1, 1, 1, 2, 3]
    assert objects.either.tolist() == [4, 3, 2, 2, 3]
    pictures = count_errors(result.pascal.matches, thresholds, unit="pictures")
    assert pictures.wrong.tolist() == [2, 2, 1, 0, 0]
    assert pictures.missed.tolist() == [1, 1, 1, 2, 2]
    assert pictures.either.tolist() == [2, 2, 2, 2, 2]


def test_detection_evaluation_plots_its_error_counts(
    images: list[AnnotatedImage], detections: list[Detections]
) -> None:
    truths = [ground_truth_of(image, LABELS) for image in images]
    evaluation = DetectionEvaluation(truths, detections, list(LABELS))
    assert evaluation.metrics()["PASCAL/Precision/mAP@0.5IOU"] == 0.75
    assert DetectionEvaluation(truths, detections, LABELS, 0.9).metrics() == {
        "PASCAL/PerformanceByCategory/AP@0.9IOU/circle": 0.5,
        "PASCAL/PerformanceByCategory/AP@0.9IOU/square": 1.0,
        "PASCAL/Precision/mAP@0.9IOU": 0.75,
    }

    axes = evaluation.graph_error_counts(Figure().add_subplot(), unit="pictures")

    lines = {line.get_label(): line for line in axes.get_lines()}
    counts = evaluation.error_counts(unit="pictures")
    assert list(lines) == ["wrong", "missed", "either"]
    for name, line in lines.items():
        assert np.array_equal(line.get_xdata(), counts.score_thresholds)
        assert np.array_equal(line.get_ydata(), getattr(counts, name))
    assert axes.get_ylabel() == "pictures in error"


def test_error_counts_make_their_own_figure(result: EvaluationResult) -> None:
    with mpl.rc_context({"backend": "agg"}):
        axes = graph_error_counts(count_errors(result.pascal.matches))
    assert axes.get_ylabel() == "objects in error"
    assert axes.get_xlim() == (0, 1)
    mpl.pyplot.close(axes.figure)


def test_worst_picture_comes_first(result: EvaluationResult) -> None:
    # Errors at 0.25: none, one missed and one wrong, one wrong.
    assert worst_first(result.pascal.matches, 0.25).tolist() == [1, 2, 0]
    # At 0: none, two, two; the confident mistake of picture 2 weighs more.
    assert worst_first(result.pascal.matches, 0.0).tolist() == [2, 1, 0]


def test_comparison_tells_and_draws_what_was_found(
    images: list[AnnotatedImage], result: EvaluationResult
) -> None:
    first, second = compare_pictures(images, result, limit=2, score_threshold=0.25)
    assert (first.name, first.num_found, first.missed) == ("1.png", 0, ("circle",))
    assert first.wrong == (("circle", pytest.approx(0.3)),)
    assert (second.name, second.missed) == ("2.png", ())
    assert second.wrong == (("square", pytest.approx(0.6)),)
    original = read_picture(images[2].storage_path)
    assert ImageChops.difference(second.truth, original).getbbox() is None
    assert ImageChops.difference(second.prediction, original).getbbox() is not None
    assert second.prediction.size == original.size == (96, 64)


def test_comparison_takes_the_best_threshold_or_one_half(
    images: list[AnnotatedImage], result: EvaluationResult
) -> None:
    assert compare_pictures(images, result, limit=1)[0].score_threshold == pytest.approx(0.8)
    nothing = evaluate_detections(images, [Detections.empty(SIZE_HW)] * 3, LABELS)
    assert nothing.pascal.best.score_threshold is None
    assert compare_pictures(images, nothing, limit=1)[0].score_threshold == 0.5


def test_picture_that_went_away_is_named(
    images: list[AnnotatedImage], result: EvaluationResult
) -> None:
    Path(images[1].storage_path).unlink()
    with pytest.raises(StorageError, match=r"Cannot read the file: .*1\.png"):
        compare_pictures(images, result, score_threshold=0.25)


def test_tensorboard_has_the_metrics_and_the_pictures(
    tmp_path: Path, images: list[AnnotatedImage], detections: list[Detections]
) -> None:
    result = evaluate_detections(images, detections, LabelMap((*LABELS.names, "water")))
    comparisons = compare_pictures(images, result, limit=2)

    write_tensorboard(tmp_path / "eval", result, comparisons, step=350)

    events = EventAccumulator(str(tmp_path / "eval")).Reload()
    scalars = {name: events.Scalars(name)[0] for name in events.Tags()["scalars"]}
    assert {name: event.value for name, event in scalars.items()} == {
        "PASCAL/PerformanceByCategory/AP@0.5IOU/circle": 0.5,
        "PASCAL/PerformanceByCategory/AP@0.5IOU/square": 1.0,
        "PASCAL/Precision/mAP@0.5IOU": 0.75,
    }
    assert {event.step for event in scalars.values()} == {350}
    tags = events.Tags()["images"]
    assert sorted(tags) == sorted(f"truth_and_predictions/{c.name}" for c in comparisons)
    shown = events.Images(tags[0])[0]
    assert (shown.width, shown.height) == (192, 64)

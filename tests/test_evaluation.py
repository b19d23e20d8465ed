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
from appliance.evaluation.analysis import analyse
from appliance.evaluation.comparison import compare_pictures, window_around, worst_first
from appliance.evaluation.evaluate import (
    EvaluationResult,
    LabelFigures,
    Speed,
    evaluate_detections,
    ground_truth_of,
    recommended_threshold,
)
from appliance.evaluation.metrics.error_counts import (
    DetectionEvaluation,
    count_errors,
    graph_error_counts,
)
from appliance.evaluation.report.page import result_charts
from appliance.evaluation.tensorboard import write_tensorboard
from appliance.images.drawing import load_picture
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
    assert result.num_negatives == 1
    assert result.duration_s >= 1.5
    assert result.speed == Speed(seconds=1.5, images_per_s=2.0)
    assert result.to_contract_dict() == {
        "PASCAL/PerformanceByCategory/AP@0.5IOU/circle": 0.5,
        "PASCAL/PerformanceByCategory/AP@0.5IOU/square": 1.0,
        "PASCAL/Precision/mAP@0.5IOU": 0.75,
    }


def test_metrics_are_pascals_and_cocos_at_one_level(
    images: list[AnnotatedImage], detections: list[Detections]
) -> None:
    metrics = evaluate_detections(images, detections, LabelMap((*LABELS.names, "water"))).metrics()
    assert metrics["PASCAL/Precision/mAP@0.5IOU"] == 0.75
    assert metrics["PASCAL/PerformanceByCategory/AP@0.5IOU/square"] == 1.0
    assert metrics["PASCAL/PerformanceByCategory/AP@0.5IOU/water"] is None
    # Half of the circles at every IoU: 51 of the 101 recalls are reached.
    assert metrics["COCO/AP"] == pytest.approx((51 / 101 + 1) / 2)
    assert metrics["COCO/AP50"] == metrics["COCO/AP75"] == metrics["COCO/AP"]
    assert metrics["COCO/APl"] is None
    assert len([name for name in metrics if name.startswith("COCO/")]) == 12


def test_figures_of_a_label_stand_side_by_side(result: EvaluationResult) -> None:
    circle, square = result.per_label
    assert circle == LabelFigures(
        label="circle",
        objects=2,
        ap_50=0.5,
        ap=pytest.approx(51 / 101),
        precision=1.0,
        recall=0.5,
        f1=pytest.approx(2 / 3),
        recommended_threshold=0.6,
        true_positives=1,
        false_positives=0,
        false_negatives=1,
    )
    assert (square.label, square.ap_50, square.recommended_threshold) == ("square", 1.0, 0.7)


def test_interpolation_and_iou_are_those_asked_for(
    images: list[AnnotatedImage], detections: list[Detections]
) -> None:
    asked = evaluate_detections(
        images, detections, LABELS, iou_threshold=0.9, interpolation="11-point"
    )
    # One of two circles found: recalls 0, 0.1, ..., 0.5 of the eleven.
    assert asked.ap_50["circle"] == pytest.approx(6 / 11)
    assert "PASCAL/Precision/mAP@0.9IOU" in asked.metrics()


@pytest.mark.parametrize(
    ("right_score", "wrong_score", "expected"),
    # The last but one: 0.48 would let in what scores 0.48.
    [
        (0.8, 0.6, 0.7),
        (0.49, 0.48, 0.485),
        (0.806, 0.802, 0.804),
        (0.8064, 0.8062, 0.8063),
        (0.80604, 0.80601, 0.80604),
    ],
)
def test_recommended_threshold_lies_between_the_scores(
    images: list[AnnotatedImage], right_score: float, wrong_score: float, expected: float
) -> None:
    rows = [
        found((RIGHT, right_score, 2), (LEFT, wrong_score, 2)),
        *[Detections.empty(SIZE_HW)] * 2,
    ]
    square = evaluate_detections(images, rows, LABELS).pascal.labels[1]
    threshold = recommended_threshold(square)
    assert threshold == pytest.approx(expected)
    kept = [found.filter(score_threshold=threshold) for found in rows]
    again = evaluate_detections(images, kept, LABELS).pascal.labels[1].best
    assert (again.true_positives, again.false_positives) == (1, 0)


def test_no_threshold_is_recommended_where_nothing_is_found(images: list[AnnotatedImage]) -> None:
    nothing = evaluate_detections(images, [Detections.empty(SIZE_HW)] * 3, LABELS)
    assert [figures.recommended_threshold for figures in nothing.per_label] == [None, None]
    right_alone = evaluate_detections(
        images, [found((RIGHT, 0.9, 2)), *[Detections.empty(SIZE_HW)] * 2], LABELS
    )
    assert right_alone.per_label[1].recommended_threshold == 0.45


def test_analysis_is_the_sum_of_its_parts(result: EvaluationResult) -> None:
    analysis = analyse(result, resamples=50, seed=1)
    assert analysis.score_threshold == pytest.approx(0.8)
    assert analysis.intervals == analyse(result, resamples=50, seed=1).intervals
    document = analysis.to_json_dict()
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    assert document["confusion_matrix"]["rows_and_columns"] == ["circle", "square", "background"]
    # At 0.8: one of each found, one circle missed.
    assert document["confusion_matrix"]["counts"] == [[1, 0, 1], [0, 1, 0], [0, 0, 0]]
    assert document["error_types"]["counts"]["missed"] == 1
    assert document["error_types"]["counts"]["background"] == 3
    assert document["error_types_shown"]["counts"]["background"] == 0
    assert document["error_counts"]["objects"]["wrong"][:2] == [3, 3]
    assert document["confidence"]["resamples"] == 50


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
    assert document["speed"] is None
    assert document["labels"]["square"] == {
        "ap": 1.0,
        "coco_ap": pytest.approx(1.0),
        "objects": 1,
        "recommended_threshold": 0.7,
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
    assert list(lines) == ["wrong", "missed", "either", "wrong, on negatives"]
    shown = (counts.wrong, counts.missed, counts.either, counts.on_negatives)
    for line, values in zip(lines.values(), shown, strict=True):
        assert np.array_equal(line.get_xdata(), counts.score_thresholds)
        assert np.array_equal(line.get_ydata(), values)
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
    original = load_picture(images[2].storage_path)
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


def test_small_errors_on_a_large_picture_are_enlarged(tmp_path: Path) -> None:
    path = tmp_path / "large.png"
    picture((2000, 1500)).save(path)
    large = AnnotatedImage(
        storage_path=str(path),
        name="large.png",
        size_hw=(1500, 2000),
        boxes_xyxy=np.array([(1000, 700, 1040, 740), (20, 20, 400, 400)], np.float32),
        label_names=("circle", "square"),
        difficult=np.zeros(2, bool),
    )
    rows = [((20, 20, 400, 400), 0.9, 2), ((1100, 700, 1150, 760), 0.8, 1)]
    boxes, scores, class_ids = (np.array(column) for column in zip(*rows, strict=True))
    detections = Detections(boxes, scores, class_ids, (1500, 2000))
    result = evaluate_detections([large], [detections], LABELS)
    shown = compare_pictures([large], result, score_threshold=0.5)[0]
    assert shown.window_xyxy is not None
    x1, y1, x2, y2 = shown.window_xyxy
    # Both errors with some room around them, in the proportions of the picture.
    assert (x1 < 1000, y1 < 700, x2 > 1150, y2 > 760) == (True,) * 4
    assert (x2 - x1, y2 - y1) == shown.truth.size == shown.prediction.size == (400, 300)
    original = load_picture(path).crop(shown.window_xyxy)
    for drawn, box in ((shown.truth, (1000, 700)), (shown.prediction, (1100, 700))):
        changed = ImageChops.difference(drawn, original).getbbox()
        assert changed is not None
        assert changed[0] == pytest.approx(box[0] - x1, abs=8)


def test_what_is_seen_well_is_not_enlarged() -> None:
    small, apart = [(0, 0, 30, 30)], [(0, 0, 30, 30), (1900, 900, 1930, 930)]
    assert window_around(np.array(small, np.float32), (2000, 1000)) == (0, 0, 400, 200)
    assert window_around(np.array(small, np.float32), (900, 600)) is None
    assert window_around(np.array(apart, np.float32), (2000, 1000)) is None
    assert window_around(np.array([(0, 0, 300, 300)], np.float32), (2000, 1000)) is None
    assert window_around(np.zeros((0, 4), np.float32), (2000, 1000)) is None


def test_picture_that_went_away_is_named(
    images: list[AnnotatedImage], result: EvaluationResult
) -> None:
    Path(images[1].storage_path).unlink()
    with pytest.raises(StorageError, match=r"Cannot read the file: .*1\.png"):
        compare_pictures(images, result, score_threshold=0.25)


def test_tensorboard_has_the_metrics_the_charts_and_the_pictures(
    tmp_path: Path, images: list[AnnotatedImage], detections: list[Detections]
) -> None:
    result = evaluate_detections(images, detections, LabelMap((*LABELS.names, "water")))
    comparisons = compare_pictures(images, result, limit=2)
    charts = result_charts(result, analyse(result, resamples=20))

    write_tensorboard(tmp_path / "eval", result, comparisons, charts=charts, step=350)

    sizes = {"scalars": 0, "images": 0}
    events = EventAccumulator(str(tmp_path / "eval"), size_guidance=sizes).Reload()
    scalars = {name: events.Scalars(name)[0] for name in events.Tags()["scalars"]}
    expected = {name: value for name, value in result.metrics().items() if value is not None}
    assert expected.keys() > {"PASCAL/Precision/mAP@0.5IOU", "COCO/AP", "COCO/AR100"}
    assert "PASCAL/PerformanceByCategory/AP@0.5IOU/water" not in scalars
    assert {name: event.value for name, event in scalars.items()} == pytest.approx(expected)
    assert {event.step for event in scalars.values()} == {350}
    tags = events.Tags()["images"]
    assert sorted(tags) == sorted(
        [f"truth_and_predictions/{one.name}" for one in comparisons]
        + [f"charts/{chart.name}" for chart in charts]
    )
    shown = events.Images(f"truth_and_predictions/{comparisons[0].name}")[0]
    assert (shown.width, shown.height) == (192, 64)
    chart = events.Images("charts/confusion_matrix")[0]
    assert chart.width > 400

"""What `FasterRCNN.evaluate` does: figures of a detector on annotated pictures, and where they are seen."""

from __future__ import annotations

import time
from collections.abc import Callable

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.detections import Detections
from appliance.detector.data import check_is_dataset
from appliance.evaluation.analysis import analyse
from appliance.evaluation.comparison import compare_pictures
from appliance.evaluation.evaluate import EvaluationResult, evaluate_detections
from appliance.evaluation.report.page import result_charts
from appliance.evaluation.tensorboard import write_tensorboard
from appliance.labels import LabelMap


def evaluate_detector(
    detect: Callable[[str], Detections], dataset: ObjectDetectionDataset, labels: LabelMap
) -> EvaluationResult:
    """Detects on every picture, by its path, and measures what was found.

    Raises:
        ConfigError: `dataset` is something else.
        LabelError: The dataset has a label that is not among `labels`.
    """
    check_is_dataset(dataset)
    started_s = time.perf_counter()
    found = [detect(image.storage_path) for image in dataset.images]
    scoring_s = time.perf_counter() - started_s
    return evaluate_detections(dataset.images, found, labels, scoring_s=scoring_s)


def show_in_tensorboard(
    result: EvaluationResult, dataset: ObjectDetectionDataset, eval_dir: str
) -> None:
    """Writes the figures, their charts and the pictures with boxes as TensorBoard files."""
    pictures = compare_pictures(dataset.images, result)
    charts = result_charts(result, analyse(result))
    write_tensorboard(eval_dir, result, pictures, charts=charts)

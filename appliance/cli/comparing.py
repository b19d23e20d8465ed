"""Two models on the same annotated pictures: for every command that has to know which one is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from appliance.cli.detecting import (
    Where,
    is_predictions,
    labels_of_model,
    make_detections,
    read_detections,
    split_labels,
)
from appliance.cli.options import FormatOption

if TYPE_CHECKING:
    from appliance.detections import Detections
    from appliance.evaluation.metrics.paired import ModelComparison
    from appliance.labels import LabelMap


def comparison(
    a: str,
    b: str,
    data: str,
    *,
    where: Where = Where(),
    data_format: FormatOption = "auto",
    images: str | None = None,
    labels: str | None = None,
    iou: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> ModelComparison:
    """What `appliance compare` finds out; options as it has them, of models their addresses."""
    from appliance import storage
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.evaluation.evaluate import ground_truth_of
    from appliance.evaluation.metrics.paired import compare_detections
    from appliance.evaluation.predictions import CocoIds
    from appliance.labels import LabelMap

    known = {path: labels_of_model(path) for path in (a, b) if not is_predictions(path)}
    # What only one model knows the other never finds: that is part of the comparison.
    names = list(dict.fromkeys(name for labels in known.values() for name in labels))
    dataset = ObjectDetectionDataset.read(
        data, format=data_format, labels=names or split_labels(labels), images_root=images
    )
    ids = CocoIds.of(dataset.images)

    def found_by(path: str, name: str) -> list[Detections]:
        if path not in known:
            return list(read_detections(path, dataset, ids))
        folder = None if where.scores is None else storage.join(where.scores, name)
        found, _ = make_detections(path, dataset, replace(where, scores=folder))
        return _renumbered(found, LabelMap.of(known[path]), dataset.label_map)

    return compare_detections(
        [ground_truth_of(image, dataset.label_map) for image in dataset.images],
        found_by(a, "a"),
        found_by(b, "b"),
        dataset.label_map,
        resamples=resamples,
        seed=seed,
        iou_threshold=iou,
    )


def _renumbered(found: Sequence[Detections], own: LabelMap, common: LabelMap) -> list[Detections]:
    """The same detections with the class ids of another label map."""
    import numpy as np

    ids = np.array([0, *(common.id_of(name) for name in own.names)], np.int64)
    return [replace(one, class_ids=ids[one.class_ids]) for one in found]

"""Train Faster R-CNN, score pictures in bulk and serve it over HTTP.

The public names are imported when they are first used, so that `import appliance` costs neither torch nor
Ray.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from appliance.deferred_imports import defer_compiler

if TYPE_CHECKING:
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.deployment import Deployment
    from appliance.detections import Detections
    from appliance.detector import FasterRCNN
    from appliance.errors import ApplianceError
    from appliance.evaluation.metrics.error_counts import (
        DetectionEvaluation,
        ErrorCounts,
        count_errors,
        graph_error_counts,
    )
    from appliance.images.drawing import visualize
    from appliance.labels import Label, LabelMap
    from appliance.operations.setup.cli_setup import CliSetup
    from appliance.records import Record
    from appliance.registry.registry import Registry
    from appliance.scoring import ImageScorer
    from appliance.storage.context import Context

_HOMES = {
    "ApplianceError": "appliance.errors",
    "CliSetup": "appliance.operations.setup.cli_setup",
    "Context": "appliance.storage.context",
    "Deployment": "appliance.deployment",
    "DetectionEvaluation": "appliance.evaluation.metrics.error_counts",
    "Detections": "appliance.detections",
    "ErrorCounts": "appliance.evaluation.metrics.error_counts",
    "FasterRCNN": "appliance.detector",
    "ImageScorer": "appliance.scoring",
    "Label": "appliance.labels",
    "LabelMap": "appliance.labels",
    "ObjectDetectionDataset": "appliance.annotations.dataset",
    "Record": "appliance.records",
    "Registry": "appliance.registry.registry",
    "count_errors": "appliance.evaluation.metrics.error_counts",
    "graph_error_counts": "appliance.evaluation.metrics.error_counts",
    "visualize": "appliance.images.drawing",
}

__all__ = [
    "ApplianceError",
    "CliSetup",
    "Context",
    "Deployment",
    "DetectionEvaluation",
    "Detections",
    "ErrorCounts",
    "FasterRCNN",
    "ImageScorer",
    "Label",
    "LabelMap",
    "ObjectDetectionDataset",
    "Record",
    "Registry",
    "count_errors",
    "graph_error_counts",
    "visualize",
]

defer_compiler()


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'appliance' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])

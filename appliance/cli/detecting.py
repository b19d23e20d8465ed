"""Where the detections come from that a command measures: a model that makes them, or a file that has them."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.errors import ConfigError, ImageError

if TYPE_CHECKING:
    from appliance.annotations.dataset import AnnotatedImage, ObjectDetectionDataset
    from appliance.detections import Detections
    from appliance.detector import FasterRCNN
    from appliance.evaluation.predictions import CocoIds

logger = logging.getLogger(__name__)

# From so many pictures on, the processes of a cluster are faster than this one, start-up included.
MOST_PICTURES_HERE = 200
_PARTS = ("train", "val", "valid", "validation", "test")


IouOption = Annotated[
    float, typer.Option("--iou", help="Least overlap that counts as found, above 0 and up to 1.")
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Detect on a Ray cluster with so many processes.")
]
ScoresOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER", help="New folder for the scores of a cluster, one that all its nodes see."
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option(
        "--labels",
        help="All classes of a predictions file, with commas, in the order of their ids; "
        "by default those of DATA.",
    ),
]


def split_labels(labels: str | None) -> list[str] | None:
    """The names of `--labels`."""
    return None if labels is None else [name.strip() for name in labels.split(",")]


def refuse_labels(labels: str | None) -> None:
    """Refuses `--labels` beside a model, which brings its own.

    Raises:
        ConfigError: They are given.
    """
    if labels is not None:
        raise ConfigError(
            "--labels is for predictions files only",
            got=labels,
            expected="no --labels, for a model brings its own",
        )


def is_predictions(source: str) -> bool:
    """Whether a path names detections rather than a model."""
    return source.lower().endswith(".json")


def labels_of_model(path: str) -> list[str]:
    """The classes of a model file, in the order of their ids.

    Raises:
        StorageError: It cannot be read.
        ModelFileError: It is no model file.
    """
    from appliance.model import model_file

    return list(model_file.load(path).spec.labels)


@dataclass(frozen=True)
class Where:
    """Where a model detects.

    Attributes:
        address: Ray cluster; by default RAY_ADDRESS, or a local one for many pictures.
        workers: Processes that detect on the cluster; by default what it allows.
        scores: New folder for what they write, seen by all nodes; by default a temporary one.
        quiet: Show no progress.
        few_here: Detect on few pictures in this process, although RAY_ADDRESS names a cluster.
    """

    address: str | None = None
    workers: int | None = None
    scores: str | None = None
    quiet: bool = False
    few_here: bool = False


def make_detections(
    model: str, dataset: ObjectDetectionDataset, where: Where = Where()
) -> tuple[Sequence[Detections], float]:
    """Detects on every picture, here or, where it pays or is asked for, on a Ray cluster.

    Args:
        model: A model file.
        dataset: The pictures.
        where: On which cluster, if any.

    Returns:
        Detections with the class ids of the model, one per picture, and the seconds they took.

    Raises:
        StorageError: A picture is not there. One that is damaged counts as without detections.
    """
    paths = [image.storage_path for image in dataset.images]
    of_environment = None if where.few_here else os.environ.get("RAY_ADDRESS")
    asked_for = where.address or where.workers or where.scores or of_environment
    if asked_for or len(paths) > MOST_PICTURES_HERE:
        from appliance.on_ray.evaluation import detect_on_cluster

        scored = detect_on_cluster(
            model,
            paths,
            scratch_uri=where.scores,
            workers=where.workers,
            address=where.address,
            progress="off" if where.quiet else "auto",
        )
        return scored.detections, len(paths) / scored.images_per_s
    from appliance.detector import FasterRCNN

    detector = FasterRCNN.load(model)
    started_s = time.perf_counter()
    found = [_detect(detector, image) for image in dataset.images]
    return found, time.perf_counter() - started_s


def _detect(detector: FasterRCNN, image: AnnotatedImage) -> Detections:
    from appliance.detections import Detections

    try:
        return detector.detect(image.storage_path)
    except ImageError as error:
        logger.warning("%s It counts as a picture without detections.", error)
        return Detections.empty(image.size_hw)


def read_detections(
    path: str, dataset: ObjectDetectionDataset, ids: CocoIds
) -> Sequence[Detections]:
    """Detections of a predictions file with the class ids of the data set, one per picture.

    Raises:
        StorageError, DatasetError, LabelError: See `read_predictions`.
    """
    from appliance.evaluation.predictions import read_predictions

    return read_predictions(path, dataset.images, dataset.label_map, ids).detections


def name_of_data(data: str) -> str:
    """A folder as people call it: with its parent where it is just `test` or `train`."""
    plain, _, part = data.partition("#")
    path = PurePath(plain if "://" in plain else os.path.abspath(plain))
    own = path.name or "data"
    name = f"{path.parent.name}/{own}" if own.lower() in _PARTS and path.parent.name else own
    return f"{name}/{part}" if part else name

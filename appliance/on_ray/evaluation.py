"""Scores the pictures of a dataset on the cluster, for evaluation: the batch pipeline, read back.

The driver holds what was found, never a picture: a million pictures with ten detections each are
about 300 MB.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import ray

from appliance import storage
from appliance.bulk.config import BatchScoringConfig, ProgressStyle
from appliance.bulk.scores.manifest import open_dataset
from appliance.detections import Detections
from appliance.errors import ConfigError
from appliance.on_ray import cluster
from appliance.on_ray.batch_scoring import score_pictures
from appliance.records import read_detections

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DetectedPictures:
    """What was found on the pictures of a dataset.

    Attributes:
        detections: One a picture, in the order given; empty for one that could not be read.
        errors_by_kind: Word -> pictures that could not be read.
        images_per_s: Pictures by the time from the first to the last, start-up excluded.
        wall_s: Seconds in all.
    """

    detections: list[Detections]
    errors_by_kind: dict[str, int]
    images_per_s: float
    wall_s: float


def detect_on_cluster(
    model_uri: str | os.PathLike[str],
    image_uris: Sequence[str],
    *,
    scratch_uri: str | os.PathLike[str] | None = None,
    workers: int | None = None,
    address: str | None = None,
    progress: ProgressStyle = "auto",
) -> DetectedPictures:
    """Scores pictures on the cluster of this process, or the one `cluster.connect` finds or starts.

    Args:
        model_uri: Model file.
        image_uris: At least one.
        scratch_uri: New folder for the scores, which stay there; it must be one that all nodes see.
            None takes a temporary one, which is enough on one machine.
        workers: Processes that score; by default what the cluster allows.
        address: As in `cluster.connect`.
        progress: As in `BatchScoringConfig`.

    Raises:
        ConfigError: The cluster has several nodes and no folder was named.
        StorageError, ModelFileError, ServiceError: As in `score_pictures`.
    """
    cluster.connect(address)
    with _folder(scratch_uri) as folder:
        uris = [storage.absolute(uri) for uri in image_uris]
        summary = score_pictures(
            model_uri,
            uris,
            folder,
            config=BatchScoringConfig(workers=workers, progress=progress),
        )
        batches = open_dataset(folder).to_batches()
        # A picture that a dataset names twice is scored once.
        by_uri = {
            uri: found
            for batch in batches
            for uri, found in zip(
                batch.column("image_uri").to_pylist(), read_detections(batch), strict=True
            )
        }
        detections = [by_uri[uri] for uri in uris]
    if summary.errors_by_kind:
        logger.warning(
            "pictures that could not be read and count as empty: %s",
            ", ".join(f"{count} {kind}" for kind, count in summary.errors_by_kind.items()),
        )
    images_per_s = summary.images_per_s or summary.rows / summary.wall_s
    return DetectedPictures(detections, summary.errors_by_kind, images_per_s, summary.wall_s)


@contextlib.contextmanager
def _folder(scratch_uri: str | os.PathLike[str] | None) -> Iterator[str]:
    if scratch_uri is not None:
        yield os.fspath(scratch_uri)
        return
    nodes = sum(bool(node["Alive"]) for node in ray.nodes())
    if nodes > 1:
        raise ConfigError(
            "The scores need a folder that all nodes of the cluster see",
            got=f"{nodes} nodes",
            hint="Name a folder on shared storage with --scores",
        )
    with tempfile.TemporaryDirectory(prefix="appliance-scores-") as folder:
        yield f"{folder}/scores"

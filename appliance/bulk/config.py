"""How to score many pictures: one value for the command, a submitted job and Python alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from appliance.bulk.scores.exports import ExportFormat
from appliance.errors import ConfigError
from appliance.images.decoding import ImageLimits
from appliance.model.tiling import Tiling

ProgressStyle = Literal["auto", "bar", "log", "off"]


@dataclass(frozen=True)
class BatchScoringConfig:
    """How to score.

    Attributes:
        workers: Processes that score, at most; by default what the CPUs, or the GPUs, of the cluster allow.
        min_workers: The fewest to begin with; Ray adds workers as the cluster has room. None: all at once.
        cpus_per_worker: CPUs of each; by default 1, or a GPU's share of them, at most 8.
        gpus_per_worker: GPUs of each, also fractions; by default 1 where the cluster has any.
        batch_size: Pictures handed to the network at once.
        images_per_part: Pictures of one Parquet file; by default 16 to 1024, by the size of the job.
        score_threshold: Overrides the model's own, 0..1.
        max_detections: Overrides the model's own.
        labels: Answer with these only; None answers with all.
        tiling: Score large pictures in tiles.
        max_image_bytes: Larger files get an error row.
        max_image_pixels: So do larger pictures.
        gpu_jpeg: Decode JPEGs on the GPUs that score; needs the extra of that name on every node.
        max_error_rate: Fail when more than this share of the pictures cannot be read, 0..1.
        formats: Write the records in these forms besides.
        annotated_uri: Folder outside of the output for pictures with boxes.
        annotated_pictures: How many of them; None draws all.
        stall_timeout_s: Give up when no part was finished for so long: the cluster has no room for a
            single worker, or a worker hangs.
        progress: "bar", "log" (a line each ten seconds), "off", or "auto": a bar on a terminal.

    Raises:
        ConfigError: A value is out of range.
    """

    workers: int | None = None
    min_workers: int | None = None
    cpus_per_worker: int | None = None
    gpus_per_worker: float | None = None
    batch_size: int = 8
    images_per_part: int | None = None
    score_threshold: float | None = None
    max_detections: int | None = None
    labels: tuple[str, ...] | None = None
    tiling: Tiling | None = None
    max_image_bytes: int = ImageLimits.max_bytes
    max_image_pixels: int = ImageLimits.max_pixels
    gpu_jpeg: bool = False
    max_error_rate: float = 1.0
    formats: tuple[ExportFormat, ...] = ()
    annotated_uri: str | None = None
    annotated_pictures: int | None = 50
    stall_timeout_s: float = 1800.0
    progress: ProgressStyle = "auto"

    def __post_init__(self) -> None:
        for name in (
            "workers",
            "min_workers",
            "cpus_per_worker",
            "batch_size",
            "images_per_part",
            "max_image_bytes",
            "max_image_pixels",
            "annotated_pictures",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is wrong", got=value, expected="at least 1")
        if self.gpus_per_worker is not None and self.gpus_per_worker < 0:
            raise ConfigError("gpus_per_worker is wrong", got=self.gpus_per_worker, expected=">= 0")
        if not 0 <= self.max_error_rate <= 1:
            raise ConfigError("max_error_rate is wrong", got=self.max_error_rate, expected="0..1")

    @property
    def limits(self) -> ImageLimits:
        """What is refused before decoding."""
        return ImageLimits(self.max_image_bytes, self.max_image_pixels)

    def deciding(self) -> dict[str, Any]:
        """The settings that decide what the records say, as plain values; the rest decides how fast."""
        return {
            "score_threshold": self.score_threshold,
            "max_detections": self.max_detections,
            "labels": None if self.labels is None else sorted(self.labels),
            "tile": None if self.tiling is None else str(self.tiling),
            "max_image_bytes": self.max_image_bytes,
            "max_image_pixels": self.max_image_pixels,
            "gpu_jpeg": self.gpu_jpeg,
        }

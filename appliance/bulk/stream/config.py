"""How to score a stream: one value for the command, a submitted job and Python alike."""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.decode_ahead import MEMORY_BYTES
from appliance.errors import ConfigError
from appliance.images.decoding import ImageLimits
from appliance.model.tiling import Tiling

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class StreamConfig:
    """How to score.

    Attributes:
        batch_size: Pictures of a micro-batch at most: of one Parquet file, and of one message to the webhook.
        max_delay_s: How long a micro-batch waits for more pictures after its first.
        settle_s: A file is taken when it has not changed for so long, by what is seen of it here.
        poll_s: Seconds between two looks at a folder; by default 1, in an object store 5.
        once: Score what is there and end.
        frame_every: Only every so many frames; of videos and cameras.
        include: Patterns of names wanted, as of `NameFilter`; of folders.
        exclude: Patterns of names not wanted; of folders.
        device: As in `Predictor.load`.
        score_threshold: Overrides the model's own, 0..1.
        max_detections: Overrides the model's own.
        labels: Answer with these only; None answers with all.
        tiling: Score large pictures in tiles.
        gpu_jpeg: Decode JPEGs on the GPU that scores; needs the extra of that name.
        max_image_bytes: Larger files get an error row.
        max_image_pixels: So do larger pictures.
        memory_bytes: For pictures that are read and wait. One picture may exceed it: then it is alone.
        webhook_url: Where the records of each micro-batch are posted to, too.
        webhook_delays_s: Before the second, third, ... attempt to post a batch.
        ledger_path: Where the ledger lies; by default in the output, for one in an object store below
            `XDG_STATE_HOME`.
        report_every_s: Between two log lines.

    Raises:
        ConfigError: A value is out of range.
    """

    batch_size: int = 8
    max_delay_s: float = 1.0
    settle_s: float = 2.0
    poll_s: float | None = None
    once: bool = False
    frame_every: int = 1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    device: str = "auto"
    score_threshold: float | None = None
    max_detections: int | None = None
    labels: tuple[str, ...] | None = None
    tiling: Tiling | None = None
    gpu_jpeg: bool = False
    max_image_bytes: int = ImageLimits.max_bytes
    max_image_pixels: int = ImageLimits.max_pixels
    memory_bytes: int = MEMORY_BYTES
    webhook_url: str | None = None
    webhook_delays_s: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0)
    ledger_path: str | None = None
    report_every_s: float = 10.0

    def __post_init__(self) -> None:
        for name in ("batch_size", "frame_every", "memory_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} is wrong", got=getattr(self, name), expected="at least 1"
                )
        for name in ("max_delay_s", "settle_s"):
            if getattr(self, name) < 0:
                raise ConfigError(
                    f"{name} is wrong", got=getattr(self, name), expected="at least 0"
                )
        if self.poll_s is not None and self.poll_s <= 0:
            raise ConfigError("poll_s is wrong", got=self.poll_s, expected="more than 0")
        self.scoring()  # which looks at the rest

    def scoring(self) -> BatchScoringConfig:
        """The settings that a batch job has, too."""
        return BatchScoringConfig(
            batch_size=self.batch_size,
            score_threshold=self.score_threshold,
            max_detections=self.max_detections,
            labels=self.labels,
            tiling=self.tiling,
            gpu_jpeg=self.gpu_jpeg,
            max_image_bytes=self.max_image_bytes,
            max_image_pixels=self.max_image_pixels,
        )


def parse_duration_s(text: str, option: str) -> float:
    """Seconds of a duration such as `500ms`, `1.5s`, `2m` or `1h`.

    Args:
        text: As typed.
        option: Who asks, for the error.

    Raises:
        ConfigError: It is none.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text.strip())
    if found is None:
        raise ConfigError(
            f"{option} is no duration", got=repr(text), expected="one such as 500ms, 1s or 2m"
        )
    return float(found[1]) * _UNITS_S[found[2]]

"""Pictures with their boxes, for those who want to see what a job found: of a sample, or of all."""

from __future__ import annotations

import io
import posixpath
import re
from dataclasses import dataclass

import numpy as np
import torch

from appliance import storage
from appliance.errors import ConfigError
from appliance.images.drawing import draw_detections
from appliance.records import Record

_JPEG_QUALITY = 90
_MAX_STEM_CHARACTERS = 80


@dataclass(frozen=True)
class AnnotatedPictures:
    """Which pictures of a job are drawn, and where they go.

    Attributes:
        folder_uri: Folder or prefix.
        pictures: How many are wanted, spread evenly over the listing.
        of_images: Pictures of the job.
    """

    folder_uri: str
    pictures: int
    of_images: int

    def wants(self, position: int) -> bool:
        """Whether the picture at this place of the listing, from 0, is one of them."""
        return position * self.pictures % self.of_images < self.pictures

    def write(self, position: int, pixels: torch.Tensor, record: Record) -> None:
        """Draws a picture and writes it as a JPEG: `0000012-name.jpg`, by its place in the listing.

        Args:
            position: Its place in the listing.
            pixels: uint8 RGB `[3, h, w]`, perhaps smaller than the original.
            record: What was found on it.

        Raises:
            StorageError: It cannot be written.
        """
        height, width = pixels.shape[1:]
        scale_xyxy = np.array(
            [width / (record.width_px or width), height / (record.height_px or height)] * 2
        )
        found = record.detections
        boxes_xyxy = np.array([(f.x1, f.y1, f.x2, f.y2) for f in found]).reshape(-1, 4)
        drawn = draw_detections(
            pixels.cpu(),
            boxes_xyxy * scale_xyxy,
            [f"{f.label} {f.score:.2f}" for f in found],
            [f.class_id for f in found],
        )
        data = io.BytesIO()
        drawn.save(data, "JPEG", quality=_JPEG_QUALITY)
        name = f"{position:07d}-{_stem(record.image_uri)}.jpg"
        storage.write_bytes(storage.join(self.folder_uri, name), data.getvalue())


def check_apart(output_uri: str, annotated_uri: str) -> None:
    """Refuses pictures inside of the output, where readers of Parquet would stumble over them.

    Raises:
        ConfigError: They would lie there.
    """
    output, annotated = (
        storage.absolute(uri).rstrip("/") + "/" for uri in (output_uri, annotated_uri)
    )
    if annotated.startswith(output):
        raise ConfigError(
            "The annotated pictures must lie outside of the output",
            got=annotated_uri,
            hint="Name another folder with --annotated",
        )


def _stem(image_uri: str) -> str:
    """The name of a picture without its folders and ending, fit for a file name anywhere."""
    inside = image_uri.partition("::")[0].partition("?")[0]
    stem = re.sub(r"\.\w{1,5}$", "", posixpath.basename(inside))
    return re.sub(r"[^\w.-]+", "_", stem)[-_MAX_STEM_CHARACTERS:]

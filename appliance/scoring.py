"""From encoded pictures to records: the one path that batch, stream and online scoring share.

    decode -> predict -> record

The steps stay apart, because a service decodes in parallel before it batches, while `score` runs them in
one go for those who have many pictures at hand. One bad picture never spoils its neighbours.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from appliance.errors import ApplianceError, ImageError
from appliance.images.decoding import DecodedImage, ImageLimits, decode_image
from appliance.images.gpu_jpeg import GpuJpegDecoder
from appliance.model.predictor import Predictor
from appliance.model.tiling import Tiling, predict_tiled
from appliance.records import Record

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class DecodedUpload:
    """A picture that could be read, and where it came from."""

    image: DecodedImage
    image_uri: str
    content_sha256: str


class ImageScorer:
    """Scores encoded pictures with one predictor.

    Args:
        predictor: The model. On a CPU several threads may call `predict`; on a GPU one at a time.
        limits: What to refuse before decoding.
        gpu_jpeg: Decodes those JPEGs that it can, on the predictor's device.
        tiling: Scores each picture as a whole and in tiles; None as a whole only.
    """

    def __init__(
        self,
        predictor: Predictor,
        limits: ImageLimits = ImageLimits(),
        gpu_jpeg: GpuJpegDecoder | None = None,
        tiling: Tiling | None = None,
    ) -> None:
        self.predictor = predictor
        self.limits = limits
        self.tiling = tiling
        self._gpu_jpeg = gpu_jpeg

    @classmethod
    def load(
        cls,
        model_uri: str,
        *,
        limits: ImageLimits = ImageLimits(),
        gpu_jpeg: bool = False,
        tiling: Tiling | None = None,
        **predictor_options: Any,
    ) -> ImageScorer:
        """Reads a model file; options as in `Predictor.load`.

        Args:
            model_uri: The file.
            limits: What to refuse before decoding.
            gpu_jpeg: Decode JPEGs on the GPU that detects.
            tiling: Score each picture as a whole and in tiles.
            predictor_options: As for `Predictor`.

        Raises:
            StorageError: The file cannot be read.
            ModelFileError: It is no usable model file.
            ConfigError: `gpu_jpeg` without a GPU or without the extra of that name; or as for `Predictor`.
        """
        predictor = Predictor.load(model_uri, **predictor_options)
        decoder = GpuJpegDecoder.beside(predictor.device) if gpu_jpeg else None
        return cls(predictor, limits, decoder, tiling)

    @property
    def min_shorter_side_px(self) -> int:
        """How small a picture may be decoded without the model seeing less."""
        whole_px = self.predictor.min_shorter_side_px
        return whole_px if self.tiling is None else self.tiling.shorter_side_px(whole_px)

    def decode(self, data: bytes, image_uri: str) -> DecodedUpload:
        """Decodes one picture; safe to call from many threads.

        Raises:
            ImageError: It cannot be read.
        """
        image = decode_image(
            data,
            source=image_uri,
            limits=self.limits,
            min_shorter_side_px=self.min_shorter_side_px,
            gpu_jpeg=self._gpu_jpeg,
        )
        return DecodedUpload(image, image_uri, hashlib.sha256(data).hexdigest())

    def predict(self, uploads: Sequence[DecodedUpload]) -> list[Record]:
        """One record a picture, in the order given."""
        images = [upload.image for upload in uploads]
        if self.tiling is None:
            found = self.predictor.predict(images)
        else:
            found = predict_tiled(self.predictor, self.tiling, images)
        return [
            Record.of_detections(
                detections,
                self.predictor.labels,
                image_uri=upload.image_uri,
                content_sha256=upload.content_sha256,
                model_name=self.predictor.model_name,
                model_version=self.predictor.model_version,
            )
            for upload, detections in zip(uploads, found, strict=True)
        ]

    def error_record(self, error: ApplianceError, image_uri: str, data: bytes | None) -> Record:
        """The record of a picture that could not be read; `data` is what was read of it, if anything."""
        return Record.of_error(
            error,
            image_uri=image_uri,
            content_sha256=None if data is None else hashlib.sha256(data).hexdigest(),
            model_name=self.predictor.model_name,
            model_version=self.predictor.model_version,
        )

    def score(
        self,
        items: Sequence[tuple[str, bytes | ApplianceError]],
        decoders: Executor | None = None,
    ) -> list[Record]:
        """One record an item, in the order given, errors included.

        Args:
            items: URI and encoded bytes, or the error met on reading them.
            decoders: Decodes in parallel when given; Pillow releases the interpreter lock.
        """
        run = map if decoders is None else decoders.map
        decoded = list(run(self.decode_item, items))
        readable = [item for item in decoded if isinstance(item, DecodedUpload)]
        predicted: Iterator[Record] = iter(self.predict(readable))
        return [next(predicted) if isinstance(item, DecodedUpload) else item for item in decoded]

    def decode_item(self, item: tuple[str, bytes | ApplianceError]) -> DecodedUpload | Record:
        """Decodes one picture, or gives the record that says why it cannot be; never raises.

        Args:
            item: URI and encoded bytes, or the error met on reading them.
        """
        image_uri, data = item
        if isinstance(data, ApplianceError):
            return self.error_record(data, image_uri, None)
        try:
            return self.decode(data, image_uri)
        except ApplianceError as error:
            return self.error_record(error, image_uri, data)
        except Exception as error:
            # A decoder that fails in a way nobody has seen yet must not cost a million other pictures.
            logger.warning("unexpected failure on %s", image_uri, exc_info=True)
            odd = ImageError(
                "The picture cannot be decoded",
                kind="unreadable",
                where=image_uri,
                got=f"{type(error).__name__}: {error}",
            )
            return self.error_record(odd, image_uri, data)

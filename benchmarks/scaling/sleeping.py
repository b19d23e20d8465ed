"""A replica whose model sleeps instead of computing; all else of it is the service's own.

The model file is read and warmed up, pictures are decoded, batched and answered as ever. So what a request costs
here is what HTTP, HAProxy, batcher and Ray cost, and one machine carries more replicas than it has cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

from appliance.detections import Detections
from appliance.records import Record
from appliance.scoring import DecodedUpload, ImageScorer
from serve_app.app import DetectionService
from serve_app.settings import ServiceSettings

SLEEP_VARIABLE = "APPLIANCE_BENCH_SLEEP_MS"
DEFAULT_SLEEP_MS = 50.0


class SleepingScorer(ImageScorer):
    """Decodes as another scorer, then sleeps once a batch and finds nothing.

    Args:
        scorer: Whose model and limits are named in the answers.
        sleep_s: Time of a batch.
    """

    def __init__(self, scorer: ImageScorer, sleep_s: float) -> None:
        super().__init__(scorer.predictor, scorer.limits)
        self._sleep_s = sleep_s

    def predict(self, uploads: Sequence[DecodedUpload]) -> list[Record]:
        """One record a picture, without objects, after the sleep."""
        time.sleep(self._sleep_s)
        return [
            Record.of_detections(
                Detections.empty(upload.image.size_hw),
                self.predictor.labels,
                image_uri=upload.image_uri,
                content_sha256=upload.content_sha256,
                model_name=self.predictor.model_name,
                model_version=self.predictor.model_version,
            )
            for upload in uploads
        ]


class SleepingService(DetectionService):
    """The replica of the service with such a scorer. The time comes from a variable, which Ray hands on."""

    def __init__(self, settings: ServiceSettings) -> None:
        super().__init__(settings)
        engine = self._pool.default
        sleep_ms = float(os.environ.get(SLEEP_VARIABLE, DEFAULT_SLEEP_MS))
        engine.scorer = SleepingScorer(engine.scorer, sleep_ms / 1000)

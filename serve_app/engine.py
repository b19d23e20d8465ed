"""From encoded bytes to a record, for many callers at once: decode in parallel, predict in batches.

    bytes -> decode (thread pool) -> batcher -> predict (the one model thread) -> Record

Knows nothing of HTTP or Ray: `await engine.score(data, name)` is all there is. Decoding comes before
batching, so that a broken picture fails its own request and no other; the event loop only coordinates.
"""

from __future__ import annotations

import asyncio
import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from PIL import Image

from appliance.errors import ServiceError
from appliance.images.decoding import ImageLimits
from appliance.records import Record
from appliance.scoring import DecodedUpload, ImageScorer
from serve_app.batching import Batcher
from serve_app.settings import ServiceSettings


class ScoringEngine:
    """One model behind a batcher.

    Args:
        scorer: Decodes from many threads, predicts from `model_thread` alone.
        model_thread: An executor with one thread; the engine takes it over.
        settings: Batch size, waiting time, threads that decode.
    """

    def __init__(
        self, scorer: ImageScorer, model_thread: ThreadPoolExecutor, settings: ServiceSettings
    ) -> None:
        self.scorer = scorer
        self._closed = False
        self._decoding = 0
        self._model_thread = model_thread
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "decode")
        # On a CPU the predictor takes pictures one at a time: a larger batch would only make the first
        # of them wait for the last.
        max_batch_size = settings.max_batch_size or scorer.predictor.batch_size
        # Bounds the memory that decoded pictures may take: one batch in work, one gathering.
        self._places = asyncio.Semaphore(2 * max_batch_size + settings.decode_threads)
        self._batcher: Batcher[DecodedUpload, Record] = Batcher(
            scorer.predict,
            model_thread,
            max_batch_size=max_batch_size,
            wait_timeout_s=settings.batch_wait_timeout_s,
            expects_more=lambda: self._decoding > 0,
        )

    @classmethod
    def load(cls, settings: ServiceSettings) -> ScoringEngine:
        """Reads the model file and has the model answer a generated picture.

        Raises:
            StorageError: The model file cannot be read.
            ModelFileError: It is no usable model file.
            ConfigError: There is no such device, or none that decodes JPEGs.
        """
        limits = ImageLimits(max_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels)
        model_thread = ThreadPoolExecutor(1, "model")

        def load_and_warm_up() -> ImageScorer:
            scorer = ImageScorer.load(
                settings.model,
                limits=limits,
                device=settings.device,
                num_threads=settings.model_threads,
                score_threshold=settings.score_threshold,
                max_detections=settings.max_detections,
                gpu_jpeg=settings.gpu_jpeg,
            )
            scorer.predict([scorer.decode(_generated_picture(), "warm-up")])
            return scorer

        # In the thread that will predict: OpenMP counts its threads per calling thread.
        try:
            scorer = model_thread.submit(load_and_warm_up).result()
        except BaseException:
            model_thread.shutdown()
            raise
        return cls(scorer, model_thread, settings)

    @property
    def ready(self) -> bool:
        """Whether pictures given now would be answered."""
        return not self._closed and self._batcher.healthy

    async def score(self, data: bytes, image_uri: str) -> Record:
        """The record of one encoded picture.

        Args:
            data: The encoded picture.
            image_uri: Its name in the record and in messages.

        Raises:
            ImageError: It cannot be read.
            ServiceError: The engine has been closed.
        """
        if self._closed:
            raise ServiceError("The service is shutting down", hint="Try again in a moment")
        async with self._places:
            self._decoding += 1
            try:
                upload = await asyncio.get_running_loop().run_in_executor(
                    self._decoders, self.scorer.decode, data, image_uri
                )
            finally:
                self._decoding -= 1
            return await self._batcher.submit(upload)

    async def close(self) -> None:
        """Answers what was accepted, then stops the threads."""
        self._closed = True
        await self._batcher.close()
        self._decoders.shutdown()
        self._model_thread.shutdown()


def _generated_picture() -> bytes:
    ramp = np.arange(256, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(128)), axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()

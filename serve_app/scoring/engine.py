"""From encoded bytes to a record, for many callers at once: decode in parallel, predict in batches.

    bytes -> decode (thread pool) -> batcher -> predict (the model's threads) -> Record

Knows nothing of HTTP or Ray: `await engine.score(data, name)` is all there is. Decoding comes before
batching, so that a broken picture fails its own request and no other; the event loop only coordinates.

On a CPU a picture that is alone gets all cores. Several are computed side by side, each on its share of the
cores: threads that share one picture wait for each other many times in it, all the more when decoding and
HTTP take one of them away for a moment.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import torch
from PIL import Image
from torchvision.transforms.v2.functional import resize

from appliance.errors import ServiceError
from appliance.images.decoding import ImageLimits
from appliance.model.device import resolve_device
from appliance.records import Record
from appliance.scoring import DecodedUpload, ImageScorer
from serve_app.scoring.batching import Batcher
from serve_app.scoring.health import EngineHealth
from serve_app.scoring.timings import Timings
from serve_app.settings import ServiceSettings

_MOST_SIDE_BY_SIDE = 4


class ScoringEngine:
    """One model behind a batcher.

    Args:
        scorer: Decodes from many threads, predicts from those of `model_threads` alone.
        model_threads: An executor with a thread for each of `side_by_side`; the engine takes it over.
        settings: Batch size, waiting time, threads that decode.
        on_batch: Is told name and size of each batch, in a thread of the model.
        side_by_side: Most batches that are computed at a time.
    """

    def __init__(
        self,
        scorer: ImageScorer,
        model_threads: ThreadPoolExecutor,
        settings: ServiceSettings,
        on_batch: Callable[[str, int], None] | None = None,
        side_by_side: int = 1,
    ) -> None:
        self.scorer = scorer
        self.health = EngineHealth(
            lambda: self.score(_generated_picture(), "health check"),
            stuck_after_s=settings.stuck_after_s or settings.request_timeout_s,
            probe_after_s=settings.health_probe_after_s,
        )
        self._on_batch = on_batch
        self._closed = False
        self._decoding = 0
        self._inside = 0
        self._side_by_side = side_by_side
        self._cores = settings.model_threads
        self._model_threads = model_threads
        self._decoders = ThreadPoolExecutor(settings.decode_threads, "decode")
        # On a CPU the predictor takes pictures one at a time: a larger batch would only make the first
        # of them wait for the last.
        max_batch_size = settings.max_batch_size or scorer.predictor.batch_size
        # Bounds the memory that decoded pictures may take: batches in work, one gathering.
        self._places = asyncio.Semaphore(
            (side_by_side + 1) * max_batch_size + settings.decode_threads
        )
        self._batcher: Batcher[DecodedUpload, Record] = Batcher(
            self._predict,
            model_threads,
            max_batch_size=max_batch_size,
            wait_timeout_s=settings.batch_wait_timeout_s,
            max_running=side_by_side,
            expects_more=lambda: self._decoding > 0,
        )

    @classmethod
    def load(
        cls, settings: ServiceSettings, on_batch: Callable[[str, int], None] | None = None
    ) -> ScoringEngine:
        """Reads the model file and has the model answer a generated picture.

        Args:
            settings: Model, device, threads, limits.
            on_batch: Is told name and size of each batch, in the model's thread.

        Raises:
            StorageError: The model file cannot be read.
            ModelFileError: It is no usable model file.
            ConfigError: There is no such device, or none that decodes JPEGs.
        """
        limits = ImageLimits(max_bytes=settings.max_body_bytes, max_pixels=settings.max_pixels)
        side_by_side = _side_by_side(settings)
        model_threads = ThreadPoolExecutor(side_by_side, "model")

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
            scorer = model_threads.submit(load_and_warm_up).result()
        except BaseException:
            model_threads.shutdown()
            raise
        return cls(scorer, model_threads, settings, on_batch, side_by_side)

    @property
    def ready(self) -> bool:
        """Whether pictures given now would be answered."""
        return not self._closed and self._batcher.healthy

    @property
    def queue_depth(self) -> int:
        """Pictures that are being decoded or wait for the model."""
        return self._decoding + self._batcher.waiting

    async def score(
        self,
        data: bytes,
        image_uri: str,
        *,
        resize_wh: tuple[int, int] | None = None,
        timings: Timings | None = None,
    ) -> Record:
        """The record of one encoded picture.

        Args:
            data: The encoded picture.
            image_uri: Its name in the record and in messages.
            resize_wh: Has the model look at the picture in this width and height; boxes refer to the
                original all the same.
            timings: Where to note how long each stage took.

        Raises:
            ImageError: It cannot be read.
            ServiceError: The engine has been closed.
        """
        if self._closed:
            raise ServiceError("The service is shutting down", hint="Try again in a moment")
        timings = timings or Timings()

        def decode() -> DecodedUpload:
            with self.health.decoding.running(), timings.stage("decode"):
                upload = self.scorer.decode(data, image_uri)
                return upload if resize_wh is None else resized(upload, resize_wh)

        async with self._places:
            self._inside += 1
            try:
                self._decoding += 1
                try:
                    upload = await asyncio.get_running_loop().run_in_executor(
                        self._decoders, decode
                    )
                finally:
                    self._decoding -= 1
                return await self._batcher.submit(upload, timings)
            finally:
                self._inside -= 1

    async def check_health(self) -> None:
        """Asks for the built-in picture, unless others have just been answered.

        Raises:
            ServiceError: Pictures given now would not be answered.
        """
        if not self.ready:
            raise ServiceError("The model does not answer", got="it takes no more pictures")
        await self.health.check()

    def _predict(self, uploads: Sequence[DecodedUpload]) -> Sequence[Record]:
        if self._on_batch is not None:
            self._on_batch(self.scorer.predictor.model_name, len(uploads))
        with self.health.predicting.running():
            if self._side_by_side > 1:
                share_cores(self._cores, min(self._inside, self._side_by_side))
            return self.scorer.predict(uploads)

    async def close(self) -> None:
        """Answers what was accepted, then stops the threads."""
        self._closed = True
        await self._batcher.close()
        self._decoders.shutdown()
        self._model_threads.shutdown()


def _side_by_side(settings: ServiceSettings) -> int:
    """A GPU computes one batch after another; on a CPU each takes memory of its own."""
    on_gpu = resolve_device(settings.device).type == "cuda"
    return 1 if on_gpu else min(settings.model_threads, _MOST_SIDE_BY_SIDE)


def share_cores(cores: int, parts: int) -> None:
    """Has torch compute with an equal part of the cores in the calling thread, and in no other."""
    threads = max(1, cores // max(1, parts))
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)


def resized(upload: DecodedUpload, size_wh: tuple[int, int]) -> DecodedUpload:
    """The same picture in another size, with proper filtering; its original size is kept for boxes.

    Args:
        upload: As decoded.
        size_wh: Width and height wanted, pixels.
    """
    width_px, height_px = size_wh
    pixels = resize(upload.image.pixels, [height_px, width_px], antialias=True)
    return replace(upload, image=replace(upload.image, pixels=pixels))


def _generated_picture() -> bytes:
    ramp = np.arange(256, dtype=np.uint8)
    pixels = np.stack(np.broadcast_arrays(ramp[None, :], ramp[:, None], np.uint8(128)), axis=-1)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()

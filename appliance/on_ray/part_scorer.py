"""What one worker of a batch job does: read and decode ahead in threads, infer, write one Parquet file.

The worker gets a part of the input listing and answers with a `PartOutcome`, a few numbers; pictures and
records never pass between processes. It does not know Ray: any caller may run it in its own process.
"""

from __future__ import annotations

import io
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

from appliance import storage
from appliance.errors import ImageError, StorageError
from appliance.images.decoding import ImageLimits
from appliance.records import Record, records_to_table
from appliance.scoring import DecodedUpload, ImageScorer


@dataclass(frozen=True)
class ScorerSettings:
    """What a worker needs to make its scorer.

    Attributes:
        model_uri: Model file, readable on every node.
        limits: What to refuse before decoding.
        device: As in `Predictor.load`.
        threads: CPU threads for inference, and as many again that read and decode ahead.
        batch_size: Pictures handed to the predictor at once.
        score_threshold: Overrides the model's own.
        max_detections: Overrides the model's own.
        gpu_jpeg: Decode JPEGs on the GPU.
    """

    model_uri: str
    limits: ImageLimits
    device: str = "auto"
    threads: int = 1
    batch_size: int = 8
    score_threshold: float | None = None
    max_detections: int | None = None
    gpu_jpeg: bool = False


@dataclass(frozen=True)
class PartJob:
    """A slice of the input listing and the file its records go to."""

    index: int
    image_uris: tuple[str, ...]
    part_uri: str


@dataclass(frozen=True)
class PartOutcome:
    """What became of a `PartJob`.

    Attributes:
        index: Of the job.
        rows: Records written: as many as pictures given.
        size_bytes: Length of the Parquet file.
        errors_by_kind: Word -> pictures that could not be read.
        objects_per_label: Label -> detections.
        model_version: Version of the model that this worker has read.
        started_s: When work on it began, seconds since the epoch.
        finished_s: When it ended.
    """

    index: int
    rows: int
    size_bytes: int
    errors_by_kind: Counter[str]
    objects_per_label: Counter[str]
    model_version: str
    started_s: float
    finished_s: float


class PartScorer:
    """Scores one part after another with one model.

    Raises:
        StorageError: The model file cannot be read.
        ModelFileError: It is no usable model file.
        ConfigError: There is no such device, or none that decodes JPEGs.
    """

    def __init__(self, settings: ScorerSettings) -> None:
        self._settings = settings
        self._scorer = ImageScorer.load(
            settings.model_uri,
            limits=settings.limits,
            device=settings.device,
            num_threads=settings.threads,
            score_threshold=settings.score_threshold,
            max_detections=settings.max_detections,
            gpu_jpeg=settings.gpu_jpeg,
        )
        self._decoders = ThreadPoolExecutor(settings.threads, thread_name_prefix="decode")

    def score_part(self, job: PartJob) -> PartOutcome:
        """Writes one record a picture, in the order of the job.

        Raises:
            StorageError: The part cannot be written.
        """
        started_s = time.time()
        records = list(self._records(job.image_uris))
        data = _parquet(records)
        storage.write_bytes(job.part_uri, data)
        return PartOutcome(
            job.index,
            len(records),
            len(data),
            Counter(record.error_kind for record in records if record.error_kind is not None),
            Counter(found.label for record in records for found in record.detections),
            self._scorer.predictor.model_version,
            started_s,
            time.time(),
        )

    def _records(self, image_uris: Sequence[str]) -> Iterator[Record]:
        batch_size = self._settings.batch_size
        waiting = iter(image_uris)
        # Two batches are in memory at most: one in the network, one being decoded.
        decoding: deque[Future[DecodedUpload | Record]] = deque(
            self._decoders.submit(self._decode, uri) for uri in islice(waiting, 2 * batch_size)
        )
        while decoding:
            batch = [decoding.popleft().result() for _ in range(min(batch_size, len(decoding)))]
            decoding.extend(
                self._decoders.submit(self._decode, uri) for uri in islice(waiting, len(batch))
            )
            readable = [item for item in batch if isinstance(item, DecodedUpload)]
            predicted = iter(self._scorer.predict(readable))
            yield from (
                next(predicted) if isinstance(item, DecodedUpload) else item for item in batch
            )

    def _decode(self, image_uri: str) -> DecodedUpload | Record:
        try:
            data = storage.read_bytes(image_uri)
        except StorageError as error:
            gone = ImageError(error.what, kind="missing", where=error.where, got=error.got)
            return self._scorer.decode_item((image_uri, gone))
        return self._scorer.decode_item((image_uri, data))


def _parquet(records: Sequence[Record]) -> bytes:
    import pyarrow.parquet

    buffer = io.BytesIO()
    pyarrow.parquet.write_table(records_to_table(records), buffer, compression="zstd")
    return buffer.getvalue()

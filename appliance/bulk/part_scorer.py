"""What one worker of a batch job does: read and decode ahead in threads, infer, write one Parquet file.

The worker gets the number of a part of the listing and answers with a `PartOutcome`, a few numbers;
pictures and records never pass between processes. It does not know Ray: any caller may run it in its own
process.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby

from appliance import storage
from appliance.bulk.annotated import AnnotatedPictures
from appliance.bulk.decode_ahead import DecodeAhead, StageSeconds
from appliance.bulk.inputs.containers import Content, Fetch, Frame
from appliance.bulk.inputs.listing import InputKind, PictureRef, read_part
from appliance.bulk.inputs.opening import open_container
from appliance.bulk.inputs.retries import unread, with_retries
from appliance.bulk.scores.part_file import PartCounts, write_part
from appliance.errors import ApplianceError, ImageError, StorageError
from appliance.images.decoding import ImageLimits
from appliance.model.tiling import Tiling
from appliance.records import Record
from appliance.scoring import DecodedUpload, ImageScorer

_READERS_OF_A_STORE = 16


@dataclass(frozen=True)
class ScorerSettings:
    """What a worker needs to make its scorer.

    Attributes:
        model_uri: Model file, readable on every node.
        limits: What to refuse before decoding.
        device: As in `Predictor.load`.
        threads: CPU threads for inference, and as many again that decode ahead.
        batch_size: Pictures handed to the predictor at once.
        score_threshold: Overrides the model's own.
        max_detections: Overrides the model's own.
        labels: Answer with these only; None answers with all.
        tiling: Score large pictures in tiles.
        gpu_jpeg: Decode JPEGs on the GPU.
        annotated: Pictures to draw.
    """

    model_uri: str
    limits: ImageLimits
    device: str = "auto"
    threads: int = 1
    batch_size: int = 8
    score_threshold: float | None = None
    max_detections: int | None = None
    labels: tuple[str, ...] | None = None
    tiling: Tiling | None = None
    gpu_jpeg: bool = False
    annotated: AnnotatedPictures | None = None


@dataclass(frozen=True)
class PartJob:
    """A part of a listing and the file its records go to.

    Attributes:
        index: Which part.
        listing_uri: Where the listing lies.
        kind: How its containers are read.
        part_uri: Where the records go.
        first_position: Place in the whole listing of the first picture of the part.
    """

    index: int
    listing_uri: str
    kind: InputKind
    part_uri: str
    first_position: int = 0


@dataclass(frozen=True)
class PartOutcome:
    """What became of a `PartJob`.

    Attributes:
        counts: What is in the file.
        started_s: When work on it began, seconds since the epoch.
        finished_s: When it ended.
        stage_s: Seconds of threads by stage: `read`, `decode`, `predict`, `write`, and `wait`, the time
            in which the network had nothing to do.
    """

    counts: PartCounts
    started_s: float
    finished_s: float
    stage_s: dict[str, float] = field(default_factory=dict)


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
            labels=settings.labels,
            tiling=settings.tiling,
            gpu_jpeg=settings.gpu_jpeg,
        )
        self._seconds = StageSeconds()
        self._ahead: dict[int, DecodeAhead[DecodedUpload | Record]] = {}

    def score_part(self, job: PartJob) -> PartOutcome:
        """Writes one record a picture, in the order of the listing.

        Raises:
            StorageError: The listing cannot be read, or the part not be written.
        """
        started_s = time.time()
        refs = read_part(job.listing_uri, job.index)
        records = list(self._records(job, refs))
        with self._seconds.measured("write"):
            version = self._scorer.predictor.model_version
            counts = write_part(job.part_uri, job.index, records, version)
        return PartOutcome(counts, started_s, time.time(), self._seconds.taken())

    def _records(self, job: PartJob, refs: list[PictureRef]) -> Iterator[Record]:
        position = job.first_position
        with ExitStack() as stack:
            batches = self._decoding(refs).batches(self._pictures(job.kind, refs, stack))
            while True:
                with self._seconds.measured("wait"):
                    batch = next(batches, None)
                if batch is None:
                    return
                with self._seconds.measured("predict"):
                    records = self._predict(batch)
                for item, record in zip(batch, records, strict=True):
                    self._draw(position, item, record)
                    position += 1
                yield from records

    def _decoding(self, refs: list[PictureRef]) -> DecodeAhead[DecodedUpload | Record]:
        in_store = storage.is_remote(refs[0].container or refs[0].image_uri)
        threads = self._settings.threads
        readers = max(threads, _READERS_OF_A_STORE) if in_store else threads
        if readers not in self._ahead:
            self._ahead[readers] = DecodeAhead(
                self._decode,
                min_shorter_side_px=self._scorer.min_shorter_side_px,
                threads=threads,
                readers=readers,
                batch_size=self._settings.batch_size,
                seconds=self._seconds,
            )
        return self._ahead[readers]

    def _pictures(
        self, kind: InputKind, refs: list[PictureRef], stack: ExitStack
    ) -> Iterator[tuple[PictureRef, Fetch]]:
        """Every picture with what fetches it; a container that fails is an error of each picture in it."""
        for uri, group in groupby(refs, key=lambda ref: ref.container):
            left = list(group)
            opening = partial(open_container, kind, uri, self._settings.limits)
            try:
                container = stack.enter_context(with_retries(opening))
                for fetch in container.read(tuple(left)):
                    yield left.pop(0), fetch
            except StorageError as error:
                # As an error of the pictures: what was tried several times is not tried for each of them.
                for ref in left:
                    yield ref, partial(_fail, unread(error))

    def _decode(self, ref: PictureRef, content: Content | ApplianceError) -> DecodedUpload | Record:
        if isinstance(content, Frame):
            return DecodedUpload(content.image, ref.image_uri, content.content_sha256)
        return self._scorer.decode_item((ref.image_uri, content))

    def _predict(self, batch: list[DecodedUpload | Record]) -> list[Record]:
        readable = [item for item in batch if isinstance(item, DecodedUpload)]
        predicted = iter(self._scorer.predict(readable))
        return [next(predicted) if isinstance(item, DecodedUpload) else item for item in batch]

    def _draw(self, position: int, item: DecodedUpload | Record, record: Record) -> None:
        annotated = self._settings.annotated
        if annotated is None or not isinstance(item, DecodedUpload):
            return
        if annotated.wants(position):
            with self._seconds.measured("draw"):
                annotated.write(position, item.image.pixels, record)


def _fail(error: ImageError) -> Content:
    raise error

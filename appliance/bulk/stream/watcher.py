"""Scores a stream of pictures into a data set that grows: each of them exactly once, whatever dies on the way.

    source -> read and decode (threads) -> micro-batch -> reserve -> score -> part -> ledger -> webhook

Scoring runs in this process, which holds the output alone. See `ledger` for why no picture is lost or scored
twice, and `watched_folder` for when a file counts as complete.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import time
from contextlib import ExitStack
from datetime import UTC, datetime

from appliance import storage
from appliance.bulk.job_start import JobRequest
from appliance.bulk.scores.manifest import SUMMARY, to_bytes
from appliance.bulk.stream.beginning import open_ledger, recover
from appliance.bulk.stream.config import StreamConfig
from appliance.bulk.stream.intake import Intake
from appliance.bulk.stream.ledger import Ledger, Reservation
from appliance.bulk.stream.output import StreamOutput
from appliance.bulk.stream.posting.outbox import Outbox
from appliance.bulk.stream.posting.webhook import Webhook
from appliance.bulk.stream.reading import PictureReader, Ready
from appliance.bulk.stream.sources.arrivals import Source
from appliance.bulk.stream.sources.opening import SourceAddress, open_source, parse_source
from appliance.bulk.stream.stopping import StopRequest
from appliance.bulk.stream.summary import Meter, StreamSummary
from appliance.errors import StorageError
from appliance.model import model_file
from appliance.records import Record
from appliance.scoring import DecodedUpload, ImageScorer
from appliance.storage.ownership import Ownership, owned

logger = logging.getLogger(__name__)

_LOOK_ROUND_S = 0.1
_MAX_THREADS = 8
_READERS_OF_A_STORE = 16
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 30.0
_LAST_POSTS_S = 5.0
_END = "end"


def watch_source(
    model_uri: str | os.PathLike[str],
    source: str,
    output_uri: str | os.PathLike[str],
    *,
    config: StreamConfig = StreamConfig(),
    stop: StopRequest | None = None,
    descriptor: int | None = None,
) -> StreamSummary:
    """Scores what comes until it is asked to stop, or the source ends.

    Args:
        model_uri: Model file.
        source: As of `parse_source`.
        output_uri: Folder or prefix; see `output` for what lies in it.
        config: How.
        stop: Set its `reason` to end: what has been taken is written first.
        descriptor: Where the lines of the source `-` come from; by default standard input.

    Raises:
        ConfigError, LabelError: A setting does not fit the source or the model.
        ModelFileError: The model file is none.
        StorageError: The output cannot be written, is in use, or is of another model, source or setting; or
            the source cannot be read.
        ServiceError: Another process took over the output.
    """
    stop = stop or StopRequest()
    address = parse_source(source, config)
    webhook = None if config.webhook_url is None else Webhook(config.webhook_url)
    scorer = _load(storage.absolute(model_uri), config)
    request = _request(storage.absolute(model_uri), scorer, address, config)
    output = StreamOutput(storage.absolute(output_uri))
    with ExitStack() as stack:
        output.prepare()
        ownership = stack.enter_context(owned(output.uri))
        ledger = open_ledger(output, request, config.ledger_path)
        stack.callback(ledger.close)
        opened = open_source(address, ledger, config, descriptor=descriptor)
        recover(output, ledger, to_post=webhook is not None, remember=not opened.is_live)
        watcher = Watcher(scorer, opened, output, ledger, ownership, config, webhook)
        return watcher.run(stop)


class Watcher:
    """A stream while it runs; everything it needs is open.

    Args:
        scorer: Scores.
        source: Gives the pictures.
        output: Takes the records.
        ledger: Remembers.
        ownership: Of the output.
        config: How.
        webhook: Takes the records, too; None for none.
    """

    def __init__(
        self,
        scorer: ImageScorer,
        source: Source,
        output: StreamOutput,
        ledger: Ledger,
        ownership: Ownership,
        config: StreamConfig,
        webhook: Webhook | None = None,
    ) -> None:
        self._scorer, self._source, self._output = scorer, source, output
        self._ledger, self._ownership, self._config = ledger, ownership, config
        threads = min(os.cpu_count() or 1, _MAX_THREADS)
        threads = max(threads, _READERS_OF_A_STORE) if source.in_store else threads
        self._intake = Intake(
            source,
            PictureReader(scorer, ledger, source),
            threads=threads,
            max_pictures=2 * config.batch_size + threads,
            memory_bytes=config.memory_bytes,
        )
        self._outbox = None
        if webhook is not None:
            self._outbox = Outbox(webhook, ledger, output, config.webhook_delays_s)
        self._meter = Meter()
        self._rows_before = ledger.rows()
        self._repeated = 0
        self._stop = StopRequest()
        self._ended: str | None = None
        self._next_report_s = time.monotonic() + config.report_every_s

    def run(self, stop: StopRequest) -> StreamSummary:
        """Scores until the end.

        Raises:
            ApplianceError: As in `watch_source`.
        """
        self._stop = stop
        logger.info("scoring %s into %s", self._source.uri, self._output.uri)
        logger.info("what has been scored is written down in %s", self._ledger.path)
        try:
            self._intake.start()
            if self._outbox is not None:
                self._outbox.start()
            while not self._intake.is_exhausted:
                batch = self._collect()
                if batch:
                    self._commit(batch)
            self._post_the_rest()
            self._ended = self._stop.reason or _END
        finally:
            self._intake.close()
            if self._outbox is not None:
                self._outbox.stop(within_s=_LOOK_ROUND_S)
        summary = self._report()
        logger.info("ended: %s", self._ended)
        return summary

    def _look_round(self) -> None:
        """What has to be done every tenth of a second."""
        if self._stop.reason is not None and self._ended is None:
            self._ended = self._stop.reason
            logger.info("%s: finishing what was taken", self._stop.reason)
            self._intake.stop()
        if self._outbox is not None:
            self._outbox.check()
        if time.monotonic() >= self._next_report_s:
            logger.info("%s", self._report().line())
            self._next_report_s = time.monotonic() + self._config.report_every_s

    def _collect(self) -> list[Ready]:
        """The next micro-batch: full, or as old as it may get, or all that will come."""
        batch: list[Ready] = []
        held_bytes = 0
        closes_s = math.inf
        while len(batch) < self._config.batch_size and held_bytes < self._config.memory_bytes // 2:
            self._look_round()
            left_s = closes_s - time.monotonic()
            ready = self._intake.take(max(0.0, min(_LOOK_ROUND_S, left_s)))
            if ready is not None:
                batch.append(ready)
                held_bytes += ready.memory_bytes
                closes_s = min(closes_s, time.monotonic() + self._config.max_delay_s)
            elif not batch or left_s <= 0 or self._intake.is_exhausted:
                break
        return batch

    def _commit(self, batch: list[Ready]) -> None:
        """Scores a micro-batch and writes it down."""
        day = f"{datetime.now(UTC):%Y-%m-%d}"
        reservation = self._ledger.reserve([ready.key for ready in batch], day)
        if reservation is not None:
            self._write(reservation, [batch[place] for place in reservation.fresh])
        self._repeated += len(batch) - (0 if reservation is None else len(reservation.fresh))
        for ready in batch:
            self._source.done(ready.arrival)
        self._intake.release(sum(ready.memory_bytes for ready in batch))

    def _write(self, reservation: Reservation, fresh: list[Ready]) -> None:
        records = self._predict(fresh)
        version = self._scorer.predictor.model_version
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                self._ownership.check()
                counts = self._output.write(reservation.batch, records, version)
                break
            except StorageError as error:
                if not error.transient or self._stop.reason is not None:
                    raise
                logger.warning("writing again in %.1f s: %s", pause_s, error)
            end_s = time.monotonic() + pause_s
            while time.monotonic() < end_s and self._stop.reason is None:
                time.sleep(_LOOK_ROUND_S)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self._ledger.finish(
            reservation.batch.number,
            to_post=self._outbox is not None,
            remember=not self._source.is_live,
        )
        self._meter.add(counts, [ready.arrival.came_s for ready in fresh])
        if self._outbox is not None:
            self._outbox.wake()

    def _predict(self, batch: list[Ready]) -> list[Record]:
        items = [ready.item for ready in batch]
        found = iter(self._scorer.predict([i for i in items if isinstance(i, DecodedUpload)]))
        return [next(found) if isinstance(item, DecodedUpload) else item for item in items]

    def _post_the_rest(self) -> None:
        """Where the source has ended, all is posted; who asks to stop does not want to wait for long."""
        if self._outbox is None:
            return
        self._outbox.finish()
        stopped_s = math.inf
        while not self._outbox.is_done and time.monotonic() < stopped_s + _LAST_POSTS_S:
            self._look_round()
            if self._stop.reason is not None:
                stopped_s = min(stopped_s, time.monotonic())
            time.sleep(_LOOK_ROUND_S)
        self._outbox.check()

    def _report(self) -> StreamSummary:
        """Counts what there is, and writes it beside the records."""
        waiting = self._source.waiting()
        passed = self._intake.passed
        summary = StreamSummary(
            output_uri=self._output.uri,
            ledger=str(self._ledger.path),
            source=self._source.uri,
            model_name=self._scorer.predictor.model_name,
            model_version=self._scorer.predictor.model_version,
            ended=self._ended,
            images=self._meter.images,
            batches=self._meter.batches,
            rows=self._rows_before + self._meter.images,
            repeated=self._repeated + passed["known"],
            tried_again=sum(passed.values()) - passed["known"] - passed["gone"],
            dropped=self._source.dropped,
            errors_by_kind=dict(sorted(self._meter.errors_by_kind.items())),
            error_examples=dict(sorted(self._meter.error_examples.items())),
            objects_per_label=dict(sorted(self._meter.objects_per_label.items())),
            waiting=waiting.pictures,
            oldest_s=round(waiting.oldest_s, 3),
            images_per_s=self._meter.images_per_s(),
            delay_s=self._meter.delay_s(),
            webhook=None if self._outbox is None else self._outbox.counts(),
            wall_s=self._meter.wall_s(),
        )
        try:
            uri = storage.join(self._output.uri, SUMMARY)
            storage.write_bytes(uri, to_bytes(summary.to_json()))
        except StorageError as error:
            logger.warning("cannot write the summary: %s", error)
        return summary


def _request(
    model_uri: str, scorer: ImageScorer, address: SourceAddress, config: StreamConfig
) -> JobRequest:
    """What is asked for, to compare it with what an output was begun with."""
    predictor = scorer.predictor
    model = {
        "uri": model_uri,
        "name": predictor.model_name,
        "version": predictor.model_version,
        "sha256": hashlib.sha256(model_file.read(model_uri)).hexdigest(),
        "labels": list(predictor.labels.names),
    }
    return JobRequest(model, {"uri": address.uri}, config.scoring().deciding())


def _load(model_uri: str, config: StreamConfig) -> ImageScorer:
    return ImageScorer.load(
        model_uri,
        limits=config.scoring().limits,
        gpu_jpeg=config.gpu_jpeg,
        tiling=config.tiling,
        device=config.device,
        score_threshold=config.score_threshold,
        max_detections=config.max_detections,
        labels=config.labels,
    )

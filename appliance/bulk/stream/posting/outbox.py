"""Posts finished batches to the webhook, one after the other, in a thread beside the scoring.

What has to be sent stands in the ledger, and its content in the parts. A batch counts as delivered when the
server has said so and this is in the ledger; killed in between, it is sent again under the same key. One that
is refused, or fails too often, becomes a dead letter: first by the ledger, so that it is never sent again, and
then in the file, which is looked through before a line is added that may be there.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from datetime import UTC, datetime
from typing import Any

from appliance import storage
from appliance.bulk.stream.ledger import Batch, Ledger
from appliance.bulk.stream.output import DEAD_LETTERS, StreamOutput
from appliance.bulk.stream.posting.webhook import Answer, Webhook, to_ndjson
from appliance.bulk.stream.summary import PostCounts
from appliance.errors import StorageError
from appliance.storage.failures import explained

logger = logging.getLogger(__name__)

_PART_AGAIN_S = 5.0


class Outbox:
    """What waits to be posted.

    Args:
        webhook: Where to.
        ledger: Knows what waits.
        output: Has the records.
        delays_s: Before the second, third, ... attempt with a batch; after the last it is given up.
    """

    def __init__(
        self,
        webhook: Webhook,
        ledger: Ledger,
        output: StreamOutput,
        delays_s: tuple[float, ...],
    ) -> None:
        self._webhook, self._ledger, self._output = webhook, ledger, output
        self._delays_s = delays_s
        self._delivered = self._dead = 0
        self._wake = threading.Event()
        self._is_last = self._is_stopped = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._guarded, name="outbox", daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def wake(self) -> None:
        """Tells that a batch was finished."""
        self._wake.set()

    def check(self) -> None:
        """Raises what the thread met.

        Raises:
            BaseException: It.
        """
        if self._failure is not None:
            raise self._failure

    def finish(self) -> None:
        """Ends when nothing waits any more; `is_done` tells when."""
        self._is_last = True
        self._wake.set()

    @property
    def is_done(self) -> bool:
        """Whether the thread has ended."""
        return not self._thread.is_alive()

    def stop(self, within_s: float) -> None:
        """Ends after the attempt that is going on; what waits then is sent by the next run.

        Args:
            within_s: Wait so long for it.
        """
        self._is_stopped = True
        self._wake.set()
        self._thread.join(within_s)

    def counts(self) -> PostCounts:
        """What became of the batches.

        Raises:
            StorageError: The ledger cannot be read.
        """
        return PostCounts(self._delivered, self._dead, self._ledger.posts("waiting"))

    def _guarded(self) -> None:
        try:
            self._run()
        except BaseException as error:  # noqa: BLE001 - it is raised by `check`
            if not self._is_stopped:
                self._failure = error

    def _run(self) -> None:
        self._write_dead(may_be_there=True)
        while not self._is_stopped:
            self._wake.clear()
            waiting = self._ledger.first("waiting")
            if waiting is None:
                if self._is_last:
                    return
                self._wake.wait()
                continue
            batch, _ = waiting
            answer = self._post(batch)
            if self._is_stopped and answer.failure is not None and answer.may_succeed:
                return
            if answer.failure is None:
                self._ledger.set_post(batch.number, "delivered")
                self._delivered += 1
            else:
                logger.warning(
                    "the webhook did not take batch %s (%s): see the dead letters",
                    self._output.batch_id(batch),
                    answer.failure,
                )
                self._ledger.set_post(batch.number, "dead", answer.failure)
                self._write_dead()
                self._dead += 1

    def _post(self, batch: Batch) -> Answer:
        """Sends a batch until it is taken, refused or given up."""
        body = self._body(batch)
        if isinstance(body, Answer):
            return body
        answer = self._webhook.post(self._output.batch_id(batch), body)
        for delay_s in self._delays_s:
            if answer.failure is None or not answer.may_succeed or self._is_stopped:
                break
            wait_s = max(delay_s, answer.wait_s)
            logger.info("the webhook failed (%s): again in %.1f s", answer.failure, wait_s)
            self._pause(wait_s)
            if not self._is_stopped:
                answer = self._webhook.post(self._output.batch_id(batch), body)
        return answer

    def _body(self, batch: Batch) -> bytes | Answer:
        while True:
            try:
                return to_ndjson(self._output.read(batch))
            except StorageError as error:
                if not error.transient:
                    return Answer(error.message)
                logger.warning("cannot read what is to be posted: %s", error)
            self._pause(_PART_AGAIN_S)
            if self._is_stopped:
                return Answer("the store does not answer", may_succeed=True)

    def _pause(self, seconds: float) -> None:
        """Waits, or until the end."""
        end_s = time.monotonic() + seconds
        while not self._is_stopped and (left_s := end_s - time.monotonic()) > 0:
            self._wake.wait(left_s)
            self._wake.clear()

    def _write_dead(self, *, may_be_there: bool = False) -> None:
        while (dead := self._ledger.first("dead")) is not None:
            batch, failure = dead
            letter = self._letter(batch, failure)
            if self._output.is_remote:
                # A store cannot add to an object.
                name = f"{letter['batch_id']}.jsonl"
                uri = storage.join(self._output.uri, DEAD_LETTERS, name)
                storage.write_bytes(uri, _line(letter))
            else:
                self._append(letter, may_be_there=may_be_there)
            self._ledger.set_post(batch.number, "dead_written", failure)

    def _letter(self, batch: Batch, failure: str | None) -> dict[str, Any]:
        try:
            records = [record.to_row() for record in self._output.read(batch)]
        except StorageError as error:
            logger.warning("a dead letter without its records: %s", error)
            records = []
        return {
            "batch_id": self._output.batch_id(batch),
            "url": self._webhook.url,
            "failure": failure,
            "given_up_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "records": records,
        }

    def _append(self, letter: dict[str, Any], *, may_be_there: bool) -> None:
        path = storage.local_path(storage.join(self._output.uri, f"{DEAD_LETTERS}.jsonl"))
        begins = f'{{"batch_id": "{letter["batch_id"]}"'.encode()
        with explained("Cannot write the dead letters", path), path.open("a+b") as file:
            if may_be_there:
                file.seek(0)
                whole = 0
                for line in file:
                    if not line.endswith(b"\n"):
                        file.truncate(whole)  # what a killed process had begun
                        break
                    whole += len(line)
                    if line.startswith(begins):
                        return
            file.write(_line(letter))
            file.flush()
            os.fsync(file.fileno())


def _line(letter: dict[str, Any]) -> bytes:
    return json.dumps(letter).encode() + b"\n"

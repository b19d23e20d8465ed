"""Where the checkpoints of a run lie: written whole, the last few and the best kept, broken ones passed over.

    RUN/checkpoints/step-00000100.safetensors
                    step-00000200.safetensors ...

The folder is a local one or a prefix in an object store. One process writes; any may read. A checkpoint
appears under its name when all of it is there, so whatever is killed at whatever moment leaves at least
the checkpoint before. What is in the files is the affair of `training.checkpoint`.
"""

from __future__ import annotations

import logging
import os
import re

from appliance import storage
from appliance.errors import ModelFileError, StorageError, TrainingError
from appliance.storage import folders
from appliance.training import checkpoint as checkpoints
from appliance.training.checkpoint import Checkpoint

logger = logging.getLogger(__name__)

_SUFFIX = ".safetensors"
# The address of an object may end in options.
_NAME = re.compile(r"/step-(\d+)\.safetensors(?:\?|$)")


class CheckpointStore:
    """The checkpoints of one run.

    Args:
        folder: Local path or URI; need not exist.
        keep: How many of the newest stay, at least 1; the best stays besides.

    Attributes:
        last_saved: Address of the last one that was saved here by this process; None before that.
    """

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        self.folder = str(folder)
        self.last_saved: str | None = None
        self._keep = max(1, keep)

    def address(self, step: int) -> str:
        """Path or URI of the checkpoint of a step."""
        return storage.join(self.folder, f"step-{step:08d}{_SUFFIX}")

    def steps(self) -> list[int]:
        """Steps of which there is a checkpoint, ascending.

        Raises:
            StorageError: The folder cannot be listed.
        """
        if not storage.is_remote(self.folder) and not storage.local_path(self.folder).is_dir():
            return []
        try:
            names = storage.list_files(self.folder, [_SUFFIX])
        except StorageError as error:
            if error.got == "nothing":  # in a store there is no folder before its first file
                return []
            raise
        return sorted(int(match[1]) for name in names if (match := _NAME.search(name)))

    def save(self, state: Checkpoint) -> str:
        """Writes a checkpoint, then removes those that are neither among the newest nor the best.

        Args:
            state: What to keep; an earlier one of the same step is replaced. Its record says which step
                was the best.

        Returns:
            Its address.

        Raises:
            StorageError: It cannot be written; the checkpoints before it are as they were.
        """
        self._remove_halves()
        address = self.address(state.step)
        checkpoints.save(address, state)
        self.last_saved = address
        steps = self.steps()
        for step in set(steps) - set(steps[-self._keep :]) - {state.record.best_step}:
            self._remove(self.address(step))
        return address

    def load(self, step: int) -> Checkpoint:
        """The checkpoint of a step.

        Raises:
            StorageError: It is not there or cannot be read.
            ModelFileError: It is broken.
        """
        return checkpoints.load(self.address(step))

    def newest(self) -> Checkpoint | None:
        """The newest checkpoint that is whole; None where there is none at all.

        One that is broken is passed over with a warning, and gone by the next save of its step.

        Raises:
            StorageError: The folder or a checkpoint cannot be read.
            TrainingError: There are checkpoints, and every one is broken.
        """
        steps = self.steps()
        for step in reversed(steps):
            try:
                return self.load(step)
            except ModelFileError as error:
                logger.warning("passed over a broken checkpoint: %s", error.message)
        if steps:
            raise TrainingError(
                "Every checkpoint of the run is broken",
                where=self.folder,
                got=f"steps {', '.join(map(str, steps))}",
                hint="Begin again with another --run-dir",
            )
        return None

    def clear(self) -> None:
        """Removes every checkpoint: what a run that was given up has left is not the newest of another.

        Raises:
            StorageError: The folder cannot be listed.
        """
        for step in self.steps():
            self._remove(self.address(step))

    def _remove_halves(self) -> None:
        """Removes what a process left that was killed while it wrote; only one process writes."""
        if storage.is_remote(self.folder):
            return  # an upload that was not finished left no object
        for path in storage.local_path(self.folder).glob(".step-*.part"):
            path.unlink(missing_ok=True)

    def _remove(self, address: str) -> None:
        """Removes an old checkpoint; that it cannot be removed is no reason to stop."""
        try:
            folders.remove_file(address)
        except StorageError as error:
            logger.warning("%s", error.message)

"""Temporary folders that are gone in the end, also those of processes that were killed.

Each holds a file that its process keeps locked as long as it lives. So the next one that makes such a folder knows,
by more than a number that may be used again, whose process has died; what has no such file is not ours.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

logger = logging.getLogger(__name__)

_LOCK_NAME = ".appliance-lock"


class ScratchFolder:
    """A temporary folder of this process.

    Args:
        prefix: What its name begins with.
        parent: Where it lies; None takes TMPDIR.

    Attributes:
        path: The folder.
    """

    def __init__(self, prefix: str, parent: str | None = None) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        # Locked before it has its name: under that name nobody ever finds it free while we live.
        unnamed = self.path / f"{_LOCK_NAME}.new"
        self._lock = os.open(unnamed, os.O_CREAT | os.O_RDWR, 0o600)
        with suppress(
            OSError
        ):  # a file system without locks: then it is never taken for a dead one's
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            unnamed.rename(self.path / _LOCK_NAME)

    def remove(self) -> None:
        """Removes it with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)

    def keep(self) -> None:
        """Leaves it to the user, for good."""
        (self.path / _LOCK_NAME).unlink(missing_ok=True)
        os.close(self._lock)


@contextmanager
def scratch_folder(prefix: str, parent: str | None = None) -> Iterator[Path]:
    """A temporary folder for the length of a block; those that dead processes have left go first."""
    remove_abandoned(prefix, parent)
    folder = ScratchFolder(prefix, parent)
    try:
        yield folder.path
    finally:
        folder.remove()


def remove_abandoned(prefix: str, parent: str | None = None) -> None:
    """Removes the folders of this user's processes that have died without doing so.

    Args:
        prefix: What their names begin with.
        parent: Where they lie; None takes TMPDIR.
    """
    for path in Path(parent or tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):  # it is somebody else's, or another process clears it just now
            facts = path.lstat()
            if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
                _remove_if_abandoned(path)


def _remove_if_abandoned(path: Path) -> None:
    lock = os.open(path / _LOCK_NAME, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process lives
        # Under another name first: what its process began may still write into it.
        renamed = path.rename(path.with_name(f"{path.name}-abandoned"))
        shutil.rmtree(renamed, ignore_errors=True)
        logger.info("removed %s, which a process has left that was killed", path)
    finally:
        os.close(lock)

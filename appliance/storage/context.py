"""Where results, what is to stay, and temporary files go when nobody says otherwise.

The 2018 package had such a `Context`; scripts written for it name its three folders.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from appliance.errors import StorageError


def _persistent_default() -> str:
    data = os.environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return str(Path(data) / "detection-appliance")


@dataclass(frozen=True)
class Context:
    """Three folders. `create` makes them and has this process use them; `current` gives those in use.

    Attributes:
        outputs_path: Runs of training go below it, into `runs/`; by default the current folder.
        persistent_path: What stays beyond a run: the registry of models, in `models/`, unless `APPLIANCE_REGISTRY`
            names another. By default `~/.local/share/detection-appliance`.
        temp_path: Temporary files; by default what the system has for them.
    """

    outputs_path: str = "."
    persistent_path: str = field(default_factory=_persistent_default)
    temp_path: str = field(default_factory=tempfile.gettempdir)

    @classmethod
    def create(
        cls,
        outputs_path: str | os.PathLike[str] | None = None,
        persistent_path: str | os.PathLike[str] | None = None,
        temp_path: str | os.PathLike[str] | None = None,
    ) -> Context:
        """Makes the folders that are given, and has this process use them; the others are the defaults.

        Raises:
            StorageError: A folder cannot be made or written to.
        """
        given = {
            "outputs_path": outputs_path,
            "persistent_path": persistent_path,
            "temp_path": temp_path,
        }
        paths = {name: _made(path, name) for name, path in given.items() if path is not None}
        if temp_path is not None:
            tempfile.tempdir = paths["temp_path"]
        context = cls(**paths)
        _current[0] = context
        return context

    @classmethod
    def current(cls) -> Context:
        """The folders that this process uses."""
        return _current[0] or cls()

    @property
    def runs_path(self) -> str:
        """Folder of training runs."""
        return os.path.join("" if self.outputs_path == "." else self.outputs_path, "runs")

    @property
    def models_path(self) -> str:
        """Folder of the registry of models."""
        return os.path.join(self.persistent_path, "models")


_current: list[Context | None] = [None]


def _made(path: str | os.PathLike[str], name: str) -> str:
    folder = Path(path).expanduser().absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise StorageError(
            f"Cannot use the folder of {name}",
            where=folder,
            got=error.strerror or error,
            hint="Choose another folder, or make this one writable",
        ) from None
    return str(folder)

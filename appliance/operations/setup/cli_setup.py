"""`CliSetup().run()`, as users of the 2018 package know it: questions in a terminal or a notebook, files as the result."""

from __future__ import annotations

import os
from pathlib import Path

from appliance.operations.setup.answers import Answers, ask, usual_answers
from appliance.operations.setup.files import write_files


class CliSetup:
    """Asks how the appliance is to be used, and writes commented settings: `appliance init` for scripts.

    Args:
        folder: Where the files go.
        overwrite: Whether earlier ones may be replaced.
    """

    def __init__(self, folder: str | os.PathLike[str] = ".", *, overwrite: bool = False) -> None:
        self._folder = Path(folder)
        self._overwrite = overwrite

    def run(self, answers: Answers | None = None) -> dict[str, str]:
        """Asks, unless the answers are given, and writes.

        Args:
            answers: What would be asked.

        Returns:
            Each file that was written, and the command that uses it.

        Raises:
            StorageError: There is a file already, or it cannot be written.
            ConfigError: There are no such starting weights.
        """
        given = answers or ask(usual_answers(), frozenset(), input)
        written = write_files(given, self._folder, overwrite=self._overwrite)
        return {str(file): command for file, command in written.items()}

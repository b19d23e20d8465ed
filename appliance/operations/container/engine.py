"""Builds an image from a context, where a Docker engine is to be had."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from appliance.errors import ServiceError

_PROGRAM = "docker"
_LOOK_TIMEOUT_S = 20


def build_image(folder: Path, tag: str) -> None:
    """Runs `docker build`, whose output goes to standard error.

    Raises:
        ServiceError: There is no engine, or the build fails; the context stays.
    """
    command = f"docker build -t {tag} {folder}"
    reason = _why_no_engine()
    if reason is not None:
        raise ServiceError(
            "No Docker engine answers here",
            got=reason,
            hint=f"The context is written; build it where there is one: `{command}`",
        )
    built = subprocess.run([_PROGRAM, "build", "-t", tag, str(folder)], stdout=2)  # noqa: PLW1510 - looked at
    if built.returncode != 0:
        raise ServiceError(
            "The image could not be built",
            where=folder,
            got=f"exit code {built.returncode} of `{command}`",
            hint="Its last lines above say why; the context is as it was",
        )


def _why_no_engine() -> str | None:
    program = shutil.which(_PROGRAM)
    if program is None:
        return "no program `docker`"
    try:
        asked = subprocess.run(  # noqa: PLW1510 - looked at
            [program, "version", "--format", "{{.Server.Version}}"],
            capture_output=True,
            text=True,
            timeout=_LOOK_TIMEOUT_S,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if asked.returncode == 0:
        return None
    lines = asked.stderr.strip().splitlines()
    return lines[-1] if lines else f"`docker version` ends with {asked.returncode}"

"""A virtual environment for each peer, made from its pinned packages.

torch alone takes gigabytes, and all peers compute with the same one. So an environment holds only what the peer
itself needs; behind these packages a `.pth` file adds those of the project's own environment, torch and torchvision
among them. What the peer pins wins. A peer whose packages the project pins already has nothing of its own.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
REQUIREMENTS_DIR = Path(__file__).parent / "requirements"
_INSTALL_TIMEOUT_S = 600


class NotInstalledError(Exception):
    """A peer's packages do not install."""


def python_of(peer: str, cache: Path) -> Path:
    """The Python of a peer's environment, which is made unless it lies in the cache already.

    Args:
        peer: As its file of requirements is called.
        cache: Gets a folder for each peer and state of its requirements.

    Raises:
        NotInstalledError: The last line of what the installer said.
    """
    requirements = REQUIREMENTS_DIR / f"{peer}.txt"
    pinned = requirements.read_text() if requirements.exists() else ""
    decisive = f"{pinned}{sys.executable}{sys.version}{ROOT}"
    folder = cache / f"{peer}-{hashlib.sha256(decisive.encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    done = folder / "installed"
    if done.exists():
        return python
    # Half of an environment is none.
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", "--without-pip", str(folder)])
    # Theirs comes first: a path in a .pth file goes behind the folder that it lies in.
    (_packages_of(folder) / "project.pth").write_text(f"{sysconfig.get_path('purelib')}\n{ROOT}\n")
    if pinned:
        words = ["pip", "install", "--python", str(python), "--compile-bytecode"]
        pins = ["--no-deps", "--require-hashes", "--requirement", str(requirements)]
        _run([_uv(), *words, *pins])
    done.touch()
    return python


def versions_in(python: Path, packages: tuple[str, ...]) -> dict[str, str]:
    """Which versions a Python finds of some packages."""
    code = "import sys, importlib.metadata as m; print(*(m.version(n) for n in sys.argv[1:]))"
    done = subprocess.run(
        [str(python), "-c", code, *packages], capture_output=True, text=True, check=True
    )
    return dict(zip(packages, done.stdout.split(), strict=True))


def _packages_of(folder: Path) -> Path:
    return next((folder / "lib").glob("python*/site-packages"))


def _uv() -> str:
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else "uv"


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            timeout=_INSTALL_TIMEOUT_S,
            env={**os.environ, "VIRTUAL_ENV": ""},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(str(error)) from None
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip().splitlines()
        raise NotInstalledError(said[-1] if said else f"exit code {done.returncode}")

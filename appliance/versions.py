"""Which Python and packages decide the figures of a run."""

from __future__ import annotations

import contextlib
import platform
from importlib import metadata

_PACKAGES = ("torch", "torchvision", "ray", "numpy", "pillow", "pyarrow", "faster-coco-eval")


def versions() -> dict[str, str]:
    """Name -> version of Python, of those packages that are installed, and of the system."""
    packages: dict[str, str] = {}
    for name in _PACKAGES:
        # A machine that only trains, scores and measures speed has a few of them.
        with contextlib.suppress(metadata.PackageNotFoundError):
            packages[name] = metadata.version(name)
    return {"python": platform.python_version(), **packages, "machine": platform.platform()}

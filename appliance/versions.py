"""Which Python and packages decide the figures of a run."""

from __future__ import annotations

import platform
from importlib import metadata

_PACKAGES = ("torch", "torchvision", "ray", "numpy", "pillow", "pyarrow", "faster-coco-eval")


def versions() -> dict[str, str]:
    """Name -> version of Python, of the packages and of the system."""
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **packages, "machine": platform.platform()}

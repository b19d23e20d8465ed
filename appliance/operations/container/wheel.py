"""The project as a wheel, made from what runs here: from a checkout and from an installed package alike.

A wheel is an archive with the packages and a folder that describes them. Building one with setuptools would need
the checkout, which an installed appliance does not have. Equal files give equal bytes, so that an image is
built anew only where something has changed.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import io
import zipfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from appliance.errors import ConfigError

PROJECT = "detection-appliance"
PACKAGES = ("appliance", "jobs", "serve_app")
_WHEEL = (
    "Wheel-Version: 1.0\nGenerator: detection-appliance\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first time that an archive can hold


def project_wheel() -> tuple[str, bytes]:
    """File name and content of the wheel.

    Raises:
        ConfigError: The project runs without being installed, so nobody knows what it needs.
    """
    distribution = installed_project()
    stem = f"{PROJECT.replace('-', '_')}-{distribution.version}"
    files = {
        **dict(_sources()),
        f"{stem}.dist-info/METADATA": _text(distribution, "METADATA"),
        f"{stem}.dist-info/WHEEL": _WHEEL.encode(),
        f"{stem}.dist-info/entry_points.txt": _text(distribution, "entry_points.txt"),
        f"{stem}.dist-info/licenses/LICENSE": _text(distribution, "licenses/LICENSE"),
    }
    record = f"{stem}.dist-info/RECORD"
    lines = [f"{name},sha256={_digest(data)},{len(data)}" for name, data in files.items()]
    files[record] = "\n".join([*lines, f"{record},,", ""]).encode()
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
    return f"{stem}-py3-none-any.whl", stream.getvalue()


def installed_project(name: str = PROJECT) -> metadata.Distribution:
    """What pip knows of the project.

    Raises:
        ConfigError: Nothing.
    """
    try:
        return metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise ConfigError(
            f"{name} is not installed",
            hint="Install it: `make setup`, or `pip install --no-deps -e .`",
        ) from None


def _sources() -> Iterator[tuple[str, bytes]]:
    for package in PACKAGES:
        folder = Path(str(importlib.import_module(package).__file__)).parent
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                yield f"{package}/{path.relative_to(folder).as_posix()}", path.read_bytes()


def _text(distribution: metadata.Distribution, name: str) -> bytes:
    return (distribution.read_text(name) or "").encode()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()

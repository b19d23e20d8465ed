"""A folder from which Docker builds an image of one model and its service, without anything else of this machine."""

from __future__ import annotations

import importlib
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Literal

import jinja2

from appliance import storage
from appliance.config import parse_settings
from appliance.errors import ConfigError
from appliance.model.address import ModelAddress
from appliance.model.file_header import read_header
from appliance.operations.container.pins import (
    has_hashes,
    pinned_packages,
    version_in,
    without_torch,
)
from appliance.operations.container.wheel import project_wheel

Device = Literal["cpu", "cuda"]
BASES: Mapping[Device, str] = {
    "cpu": "python:3.11.14-slim-bookworm",
    # Ubuntu 24.04 has Python 3.12.
    "cuda": "nvidia/cuda:13.0.1-base-ubuntu24.04",
}
_TEMPLATES = resources.files("appliance.operations.container") / "templates"


@dataclass(frozen=True)
class ContainerPlan:
    """What is to become an image.

    Attributes:
        model: Address of the model file, pinned or plain.
        device: For which machines.
        port: Where the service listens.
        settings: Of the service, besides; names and values as of `appliance serve --set`.
    """

    model: str
    device: Device = "cpu"
    port: int = 8000
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def all_settings(self) -> dict[str, str]:
        """Those of the user, and the GPU of the machine."""
        return {**({"num_gpus": "1"} if self.device == "cuda" else {}), **self.settings}

    @property
    def name(self) -> str:
        """Of the model, in letters that a file and an image may have."""
        address = ModelAddress.parse(self.model)
        stem = address.name or Path(address.uri).stem
        return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "model"

    @property
    def version(self) -> str:
        """In the registry; a plain file is just the latest."""
        return ModelAddress.parse(self.model).version or "latest"

    @property
    def tag(self) -> str:
        """Name of the image, unless the user has another."""
        return f"detection-{self.name}:{self.version}-{self.device}"


def write_context(plan: ContainerPlan, folder: Path, *, tag: str | None = None) -> list[str]:
    """Writes the context.

    Args:
        plan: What is to become an image.
        folder: A new folder, or one that holds an earlier context, which is replaced.
        tag: Name of the image, for its README; by default that of the plan.

    Returns:
        Names of the files.

    Raises:
        ConfigError: Something else lies in the folder, or the project is not installed.
        StorageError: The model cannot be read, or the folder not be written.
        ModelFileError: It is no model file, or not the one that the registry knows.
    """
    _refuse_other_folder(folder)
    files = _files(plan, tag or plan.tag)
    if folder.is_dir():
        for path in folder.iterdir():
            path.unlink()
    for name, data in files.items():
        storage.write_bytes(folder / name, data)
    (folder / "entrypoint.sh").chmod(0o755)
    return list(files)


def _files(plan: ContainerPlan, tag: str) -> dict[str, bytes]:
    # Named as text: the library does not import the service.
    settings_class = importlib.import_module("serve_app.settings").ServiceSettings
    parse_settings(settings_class, {"model": plan.model, **plan.all_settings}, source="--set")
    address = ModelAddress.parse(plan.model)
    model = storage.read_bytes(address.uri)
    address.check(model)
    read_header(model, source=address.uri)
    # Its name in records: that of the registry, or else of the file.
    name = f"{plan.name}-{plan.version}.safetensors" if address.name else Path(address.uri).name
    file = re.sub(r"[^A-Za-z0-9._-]", "_", name)
    pins = pinned_packages()
    wheel_name, wheel = project_wheel()
    values = {
        "title": f"Detector {address.reference or plan.name}",
        "version": plan.version,
        "base": BASES[plan.device],
        "device": plan.device,
        "port": plan.port,
        "tag": tag,
        "model": file,
        "address": str(replace(address, uri=file)),
        "wheel": wheel_name,
        "hashes": " --require-hashes" if has_hashes(pins) else "",
        "torch": version_in(pins, "torch"),
        "torchvision": version_in(pins, "torchvision"),
        "settings": "".join(
            f"--set {shlex.quote(f'{name}={value}')} " for name, value in plan.all_settings.items()
        ),
    }
    files = {
        "Dockerfile": _rendered("Dockerfile.jinja", values),
        "README.md": _rendered("README.md.jinja", values),
        "entrypoint.sh": _rendered("entrypoint.sh.jinja", values),
        "healthcheck.py": (_TEMPLATES / "healthcheck.py").read_bytes(),
        # Nothing goes to the engine but what the Dockerfile copies.
        ".dockerignore": b"README.md\nDockerfile\n",
        "requirements.txt": pins.encode(),
        wheel_name: wheel,
        file: model,
    }
    if plan.device == "cpu":
        files["requirements-without-torch.txt"] = without_torch(pins).encode()
    return files


def _rendered(template: str, values: Mapping[str, object]) -> bytes:
    environment = jinja2.Environment(  # noqa: S701 - neither HTML nor XML
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    text = (_TEMPLATES / template).read_text()
    return environment.from_string(text).render(values).encode()


def _refuse_other_folder(folder: Path) -> None:
    if not folder.exists():
        return
    if folder.is_dir():
        names = {path.name for path in folder.iterdir()}
        if not names or {"Dockerfile", "entrypoint.sh", "healthcheck.py"} <= names:
            return
    raise ConfigError(
        "Something else is there already",
        where=folder,
        expected="a new folder, or an earlier context of `appliance docker`",
        hint="Choose another folder with --out",
    )

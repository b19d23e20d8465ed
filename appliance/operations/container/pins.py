"""The exact packages of an image: the project's pinned file with hashes, or the versions that run here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import appliance
from appliance.operations.container.wheel import PROJECT, installed_project

_OF_TORCH = re.compile(r"torch|torchvision|triton|nvidia-.+|cuda-.+")
_ENTRY = re.compile(r"(?m)^(?=[a-z0-9])")
CHECKOUT = Path(appliance.__file__).parents[1]


def pinned_packages(checkout: Path = CHECKOUT) -> str:
    """A requirements file that names one version of every package.

    Args:
        checkout: Of this project; where it has no requirements.txt, the versions that are installed are taken.

    Raises:
        ConfigError: There is no file, and the project or something it needs is not installed.
    """
    file = checkout / "requirements.txt"
    project = checkout / "pyproject.toml"
    if file.is_file() and project.is_file() and f'name = "{PROJECT}"' in project.read_text():
        return file.read_text()
    pins = sorted(f"{name}=={version}" for name, version in _closure(installed_project()))
    return "\n".join(["# The versions that were installed where this context was made.", *pins, ""])


def without_torch(pins: str) -> str:
    """The same without torch and what it alone needs of CUDA, for builds of torch from elsewhere."""
    return "".join(
        entry
        for entry in _ENTRY.split(pins)
        if not _OF_TORCH.fullmatch(re.split(r"[=\[ ]", entry, maxsplit=1)[0])
    )


def version_in(pins: str, name: str) -> str:
    """The version of a package there."""
    match = re.search(rf"(?m)^{re.escape(name)}==([^\s;]+)", pins)
    return match[1] if match else metadata.version(name)


def has_hashes(pins: str) -> bool:
    """Whether pip can be told to want them."""
    return "--hash=" in pins


def _closure(project: metadata.Distribution) -> Iterator[tuple[str, str]]:
    """Name and version of all that the project needs, itself left out."""
    seen: set[tuple[str, str]] = set()
    named: set[str] = set()
    todo = [(project, "")]
    while todo:
        distribution, extra = todo.pop()
        for text in distribution.requires or ():
            one = Requirement(text)
            if one.marker is not None and not one.marker.evaluate({"extra": extra}):
                continue
            name = canonicalize_name(one.name)
            needed = installed_project(name)
            if name not in named:
                named.add(name)
                yield name, needed.version
            for further in ("", *one.extras):
                if (name, further) not in seen:
                    seen.add((name, further))
                    todo.append((needed, further))

"""Python and packages, as their files tell of them: nothing of theirs is imported, so this costs no time.

What a package says of itself stands in two places: its metadata, which pip compares, and for torch and
torchvision a `version.py`, which alone tells for which CUDA they were built.
"""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from appliance.operations.doctor.finding import Finding, good, improvable, wrong

PROJECT = "detection-appliance"
_INSTALL = "Install the pinned packages: `make setup`"
_TOGETHER = (
    "Install both from one place in one command, as requirements.txt does: `make setup`, or "
    "`pip install --force-reinstall torch torchvision`"
)


@dataclass(frozen=True)
class Installation:
    """The packages of a Python.

    Attributes:
        path: Folders that are searched for them.
    """

    path: Sequence[str]

    @classmethod
    def of_this_process(cls) -> Installation:
        """That of the Python that runs."""
        return cls(tuple(sys.path))

    def distribution(self, name: str) -> metadata.Distribution | None:
        """What is known of a package; None where it is not installed."""
        found = metadata.distributions(name=name, path=list(self.path))
        return next(iter(found), None)

    def version(self, name: str) -> str | None:
        """Version of a package; None where it is not installed."""
        found = self.distribution(name)
        return None if found is None else found.version

    def built_version(self, name: str) -> str | None:
        """Version with what it was built for, as 2.15.0+cu132, from the package's `version.py`."""
        found = self.distribution(name)
        if found is None:
            return None
        file = Path(str(found.locate_file(f"{name}/version.py")))
        text = file.read_text() if file.is_file() else ""
        match = re.search(r"^__version__\s*=\s*['\"]([^'\"]+)['\"]", text, re.MULTILINE)
        return match[1] if match else found.version


def look_at_installation(installation: Installation) -> Iterator[Finding]:
    """Python, the packages that the project wants, torch beside torchvision, and Ray."""
    project = installation.distribution(PROJECT)
    if project is None:
        yield wrong("packages", f"{PROJECT} is not installed", _INSTALL)
        return
    yield _python(project.metadata["Requires-Python"] or "")
    requirements = [Requirement(text) for text in project.requires or ()]
    wanted = [one for one in requirements if one.marker is None or one.marker.evaluate()]
    yield _packages(installation, wanted)
    yield torch_and_torchvision(installation)
    yield _ray(installation)


def _python(wanted: str) -> Finding:
    version = platform.python_version()
    found = f"{version}, {sys.executable}"
    if not SpecifierSet(wanted).contains(version, prereleases=True):
        return wrong("Python", found, f"Use a Python {wanted}: `make PYTHON=/path/to/python3.12`")
    return good("Python", found)


def _packages(installation: Installation, wanted: Sequence[Requirement]) -> Finding:
    faults = []
    for one in wanted:
        version = installation.version(one.name)
        if version is None:
            faults.append(f"{one.name} is missing")
        elif not one.specifier.contains(version, prereleases=True):
            faults.append(f"{one.name} is {version}, not {one.specifier}")
    if faults:
        return wrong("packages", "; ".join(faults), _INSTALL)
    return good("packages", f"{len(wanted)} of {len(wanted)} that are needed")


def torch_and_torchvision(installation: Installation) -> Finding:
    """Whether the two belong together: a torchvision of another torch fails at its first operator."""
    name = "torch and torchvision"
    torch, torchvision = (installation.built_version(one) for one in ("torch", "torchvision"))
    distribution = installation.distribution("torchvision")
    if torch is None or torchvision is None or distribution is None:
        missing = "torch" if torch is None else "torchvision"
        return wrong(name, f"{missing} is missing", _TOGETHER)
    found = f"{torch} and {torchvision}"
    for one in (Requirement(text) for text in distribution.requires or ()):
        if one.name == "torch" and not one.specifier.contains(torch.partition("+")[0]):
            return wrong(name, f"{found}: this torchvision wants torch {one.specifier}", _TOGETHER)
    if torch.partition("+")[2] != torchvision.partition("+")[2]:
        return wrong(name, f"{found}: they are built for different devices", _TOGETHER)
    return good(name, found)


def _ray(installation: Installation) -> Finding:
    version = installation.version("ray")
    if version is None:
        return wrong("Ray", "missing", _INSTALL)
    program = "appliance-haproxy"  # as pyproject.toml names it
    scripts = sysconfig.get_path("scripts")
    if shutil.which(program, path=scripts) is None and shutil.which(program) is None:
        return wrong(
            "Ray",
            f"{version}, but {program}, which serves, is missing in {scripts}",
            "Install the project: `make setup`, or `pip install --no-deps -e .`",
        )
    distribution = installation.distribution("ray")
    source = str(distribution.locate_file("ray/__init__.py")) if distribution else ""
    if not Path(importlib.util.cache_from_source(source)).exists():
        return improvable(
            "Ray",
            f"{version} without bytecode: each of its processes compiles every module anew",
            "Compile once: `python -m compileall -q -j 0 $(python -c 'import ray; print(ray.__path__[0])')`, "
            "and unset PYTHONDONTWRITEBYTECODE",
        )
    return good("Ray", version)

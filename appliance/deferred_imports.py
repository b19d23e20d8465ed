"""Puts off what torchvision imports at once and hardly anybody needs: torch's compiler.

`torchvision.ops.roi_align` (0.29) asks `torch._dynamo.utils.is_compile_supported`, and only in deterministic mode on
a GPU; to have that one function it imports the whole compiler, which takes 1.7 s and 60 MB in every process: each
command, each replica of the service, each worker of a job. Here it gets a function that imports the compiler
when it is called, and answers the same.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

_ASKING, _ASKED = "torchvision.ops.roi_align", "torch._dynamo.utils"


def defer_compiler() -> None:
    """Has a later import of torchvision leave the compiler aside; where both are there already, nothing changes."""
    if _ASKING not in sys.modules and not any(isinstance(f, _Finder) for f in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Finder(MetaPathFinder):
    """Finds torchvision's module where it is, and has it loaded by `_Loader`."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _ASKING:
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(Loader):
    """Loads a module with a stand-in for the one that it asks, unless that is there already."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        stand_in = _StandIn(_ASKED)
        if sys.modules.setdefault(_ASKED, stand_in) is not stand_in:
            self._loader.exec_module(module)
            return
        try:
            self._loader.exec_module(module)
        finally:
            stand_in.leave()


class _StandIn(ModuleType):
    """Has the one function; whatever else is asked of it meanwhile comes from the real module."""

    def is_compile_supported(self, device_type: str) -> bool:
        return bool(self._real().is_compile_supported(device_type))

    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):  # the import system asks whether it is a package
            raise AttributeError(name)
        return getattr(self._real(), name)

    def leave(self) -> None:
        """Makes room for the real module."""
        if sys.modules.get(_ASKED) is self:
            del sys.modules[_ASKED]

    def _real(self) -> ModuleType:
        self.leave()
        return import_module(_ASKED)

"""How models of a registry are named: `NAME`, `NAME:VERSION`, `NAME@ALIAS`."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from appliance import storage
from appliance.errors import ConfigError

MODEL_ENDING = ".safetensors"
_NAME = re.compile(r"[a-z0-9_][a-z0-9._-]{0,62}")
_NAME_FORM = (
    "up to 63 lower-case letters, digits, dashes, underscores and dots, no dot or dash first"
)
# Of what may be meant as a reference; whether it is a good one is told when it is read.
_LIKE_ONE = re.compile(r"\w[\w.-]*([:@][\w.-]*)?")


@dataclass(frozen=True)
class Reference:
    """A model, one of its versions, or what one of its aliases names.

    Attributes:
        name: Of the model.
        version: Its number, from 1.
        alias: Word for one of its versions.
    """

    name: str
    version: int | None = None
    alias: str | None = None

    @classmethod
    def parse(cls, text: str) -> Reference:
        """Reads a reference.

        Raises:
            ConfigError: It is none.
        """
        name, mark, rest = text.partition(":")
        if mark:
            # Longer ones cannot be numbers of versions, and are no work to read.
            if not re.fullmatch(r"[1-9][0-9]{0,8}", rest):
                raise ConfigError(
                    "No such version",
                    where=text,
                    got=repr(rest[:40]),
                    expected="a whole number from 1",
                    hint=f"Write {name}@{rest} for an alias" if _NAME.fullmatch(rest) else None,
                )
            return cls(checked_name(name), version=int(rest))
        name, mark, rest = text.partition("@")
        return cls(checked_name(name), alias=checked_name(rest, "an alias") if mark else None)

    def __str__(self) -> str:
        if self.version is not None:
            return f"{self.name}:{self.version}"
        return self.name if self.alias is None else f"{self.name}@{self.alias}"


def checked_name(name: str, what: str = "a model") -> str:
    """The name itself.

    Raises:
        ConfigError: It will not do.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError(f"That is no name for {what}", got=repr(name[:80]), expected=_NAME_FORM)
    return name


def is_name(name: str) -> bool:
    """Whether a model may be called so."""
    return _NAME.fullmatch(name) is not None


def is_reference(text: str) -> bool:
    """Whether a MODEL on a command line names one in a registry, rather than a file.

    A file that is there wins; what has a slash, a scheme or the ending of model files is always one.
    """
    if storage.is_remote(text) or text.lower().endswith(MODEL_ENDING):
        return False
    return _LIKE_ONE.fullmatch(text) is not None and not storage.local_path(text).exists()


def one_of(reference: Reference) -> ConfigError:
    """What to say where a single version has to be named."""
    return ConfigError("Which version?", got=str(reference), expected=f"as {reference.name}:3")


def near(name: str, known: Iterable[str], *, of: str = "") -> str:
    """The next step of somebody whose name is not known.

    Args:
        name: As given.
        known: Those there are.
        of: What stands before a name in a command.
    """
    names = sorted(known)
    found = difflib.get_close_matches(name.lower(), names, n=1)
    if found:
        return f"Did you mean {of}{found[0]}"
    return f"There are {', '.join(names[:20])}" if names else "There are none"

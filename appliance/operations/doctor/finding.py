"""What was looked at, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["good", "advice", "wrong"]


@dataclass(frozen=True)
class Finding:
    """One line of the examination.

    Attributes:
        name: What was looked at.
        status: "good"; "advice" where everything works, but worse than it could; "wrong" where
            something does not work.
        found: What is there.
        advice: What to do, as full imperative sentences without the last full stop; None where all is good.
    """

    name: str
    status: Status
    found: str
    advice: str | None = None


def good(name: str, found: str) -> Finding:
    """Nothing is to be done."""
    return Finding(name, "good", found)


def wrong(name: str, found: str, advice: str) -> Finding:
    """Something does not work until `advice` is followed."""
    return Finding(name, "wrong", found, advice)


def improvable(name: str, found: str, advice: str) -> Finding:
    """Everything works; it would work better with `advice` followed."""
    return Finding(name, "advice", found, advice)


def gib(size_bytes: float) -> str:
    """A size for people."""
    return f"{size_bytes / 2**30:.1f} GiB"

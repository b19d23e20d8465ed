"""One thing that a repaired copy of a dataset has otherwise than its source, as a value."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

# What is done about faults but to drop the object.
ACTIONS_ON_FAULTS = {
    "annotation-id": "renumbered",
    "picture-unnamed": "left out",
    "picture-outside": "left out",
}


@dataclass(frozen=True)
class Change:
    """One thing that the copy has otherwise than the source.

    Attributes:
        code: The defect it repairs, one of `findings.DEFECTS`.
        action: `left out`, `dropped`, `swapped`, `clipped`, `relabelled`, `renumbered`, `resized`,
            `turned` or `written`.
        file: The file of the source concerned.
        what: What was done.
        part: Part of the data.
        picture: Name of the picture, None for a whole part.
        object_number: Which object of its annotation, from 1; None for all.
        label: Class of that object in the source.
    """

    code: str
    action: str
    file: str
    what: str
    part: str
    picture: str | None = None
    object_number: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        place = self.file
        if self.object_number is not None:
            place += f": object {self.object_number}"
            place += f" ({self.label})" if self.label is not None else ""
        return f"{self.action}: {place}: {self.what} [{self.code}]"

    def to_json(self) -> dict[str, Any]:
        """All attributes as plain values."""
        return asdict(self)

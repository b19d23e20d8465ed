"""Class names and their ids: 0 is the background, the user's classes count from 1."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from appliance.errors import LabelError

BACKGROUND_ID = 0


@dataclass(frozen=True)
class Label:
    """One class of objects, known by its name."""

    name: str

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class LabelMap:
    """The classes of a dataset or model, in the order of their ids.

    Attributes:
        names: `names[0]` has class id 1, and so on.

    Raises:
        LabelError: There is no name, or one is empty, stands twice or cannot be shown.
    """

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.names:
            raise LabelError("No classes given", expected="at least one label name")
        seen: set[str] = set()
        for name in self.names:
            if not isinstance(name, str) or not name.strip():
                raise LabelError("A label has no name", got=repr(name), expected="a non-empty text")
            if not name.isprintable():
                raise LabelError(
                    "A label has characters that cannot be shown",
                    got=ascii(name),
                    hint="Rename the class",
                )
            if name in seen:
                raise LabelError("A label stands twice", where=name, hint="Give every class once")
            seen.add(name)

    @classmethod
    def of(cls, labels: Iterable[Label | str]) -> LabelMap:
        """Builds the map from label objects or plain names, in the order given.

        Raises:
            LabelError: They are no list, or one of them cannot be used.
        """
        # A text is a list of its letters to Python.
        if isinstance(labels, str) or not isinstance(labels, Iterable):
            raise LabelError(
                "The labels are no list",
                got=repr(labels)[:80],
                expected="a list of names",
                hint=f"Write [{labels!r}] for a single one" if isinstance(labels, str) else None,
            )
        return cls(tuple(str(label) for label in labels))

    def __len__(self) -> int:
        return len(self.names)

    def __iter__(self) -> Iterator[Label]:
        return (Label(name) for name in self.names)

    def __contains__(self, name: object) -> bool:
        return str(name) in self.names

    @property
    def class_map(self) -> dict[str, int]:
        """Name -> class id, from 1."""
        return {name: index for index, name in enumerate(self.names, start=1)}

    def id_of(self, name: str) -> int:
        """The class id of `name`, from 1.

        Raises:
            LabelError: The model or dataset does not know the name.
        """
        try:
            return self.names.index(name) + 1
        except ValueError:
            raise LabelError(
                "Unknown label", where=name, expected=f"one of {', '.join(self.names)}"
            ) from None

    def name_of(self, class_id: int) -> str:
        """The name of `class_id`, from 1.

        Raises:
            LabelError: There is no such id.
        """
        if not 1 <= class_id <= len(self.names):
            raise LabelError("Unknown class id", got=class_id, expected=f"1 to {len(self.names)}")
        return self.names[class_id - 1]

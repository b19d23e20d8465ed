"""Which classes and parts a YOLO dataset has: `data.yaml`, or a text file with one name in a line."""

from __future__ import annotations

import re
from dataclasses import dataclass

from appliance import storage
from appliance.annotations.formats.inside import (
    is_absolute,
    lies_inside,
    outside_error,
    parent_of,
)
from appliance.annotations.formats.listing import Listing, ending
from appliance.annotations.formats.parts import PARTS, in_order
from appliance.config import load_yaml
from appliance.errors import ConfigError, DatasetError, StorageError


@dataclass(frozen=True)
class DataYaml:
    """What `data.yaml` says.

    Attributes:
        path: Where it lies.
        labels: Number of a class -> its name, by rising number; None if the file has no names.
        parts: Part -> folder of pictures, or text file that lists them, as written there.
        base: Its `path`: what the parts are relative to, if it exists.
    """

    path: str
    labels: dict[int, str] | None
    parts: dict[str, str]
    base: str

    @classmethod
    def read(cls, path: str) -> DataYaml:
        """Reads the file.

        Raises:
            StorageError: It cannot be read.
            DatasetError: It describes something else than boxes, or its names or parts are wrong.
        """
        try:
            values = load_yaml(path)
        except ConfigError as error:
            raise DatasetError(error.what, where=path, got=error.got) from None
        if "kpt_shape" in values:
            raise DatasetError("The labels are key points, not boxes", where=path, got="kpt_shape")
        parts: dict[str, str] = {}
        for part in PARTS:
            value = values.get(part)
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            if isinstance(value, str) and value:
                parts[part] = value
            elif value:
                raise DatasetError(
                    f"The part {part} is wrong",
                    where=path,
                    got=repr(value),
                    expected="one folder of pictures, or one text file that lists them",
                )
        labels = _labels(values["names"], path) if "names" in values else None
        return cls(path, labels, in_order(parts), str(values.get("path") or ""))

    def place_of(self, part: str, images_root: str | None = None) -> str:
        """Where a part lies: in the folder of the file, or in `images_root`.

        Raises:
            DatasetError: In neither.
        """
        here = parent_of(self.path) or "."
        given = self.parts[part].removeprefix("./").rstrip("/")
        # Roboflow writes `../train/images` for what lies beside the file.
        without_dots = re.sub(r"^(\.\./)+", "", given)
        bases = [_under(here, self.base), _under(parent_of(here) or here, self.base), here]
        allowed = [here]
        tried = [_under(base, name) for base in bases for name in (given, without_dots)]
        if images_root is not None:
            allowed.insert(0, images_root)
            short = without_dots.removeprefix("images/").removesuffix("/images")
            tried = [*(_under(images_root, name) for name in (without_dots, short)), *tried]
            if len(self.parts) == 1:
                tried.append(images_root)
        inside = [place for place in tried if any(lies_inside(place, folder) for folder in allowed)]
        for place in dict.fromkeys(inside):
            if exists(place):
                return place
        if not any(
            lies_inside(_under(_under(here, self.base), given), folder) for folder in allowed
        ):
            got = f"{self.parts[part]} below path {self.base}" if self.base else self.parts[part]
            raise outside_error(f"The part {part}", self.path, got, here)
        raise DatasetError(
            f"The part {part} is not there",
            where=self.path,
            got=self.parts[part],
            expected=f"a folder of pictures, such as {tried[-1]}",
        )


def exists(place: str) -> bool:
    """Whether there is such a file, or a folder with a file in it."""
    if not storage.is_remote(place):
        return storage.local_path(place).exists()
    try:
        if ending(place) == ".txt":
            return bool(storage.read_bytes(place))
        return bool(Listing.of(place).files)
    except StorageError:
        return False


def _under(folder: str, name: str) -> str:
    if not name or name == ".":
        return folder
    if is_absolute(name):
        return name
    return storage.join(folder, *name.split("/"))


def labels_in(path: str) -> dict[int, str]:
    """Number of a class -> its name, from a text file with one name in a line.

    Raises:
        StorageError: It cannot be read.
        DatasetError: It holds no names, or one twice.
    """
    data = storage.read_bytes(path)
    try:
        lines = [line.strip() for line in data.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise DatasetError("The names of the classes are not in UTF-8", where=path) from None
    while lines and not lines[-1]:
        lines.pop()
    return _labels(lines, path)


def _labels(names: object, path: str) -> dict[int, str]:
    """Number of a class -> its name, from a list or a mapping."""
    numbered = dict(enumerate(names)) if isinstance(names, list) else names
    if not isinstance(numbered, dict) or not numbered:
        raise DatasetError("The names of the classes are wrong", where=path, got=repr(names))
    labels: dict[int, str] = {}
    for number, name in numbered.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 0:
            raise DatasetError(
                "The number of a class is wrong",
                where=path,
                got=repr(number),
                expected="a whole number from 0",
            )
        # YAML reads a bare `yes` or `no` as a truth value: their spelling is lost.
        if (
            isinstance(name, bool)
            or not isinstance(name, str | int | float)
            or not str(name).strip()
        ):
            raise DatasetError(
                f"The name of class {number} is wrong",
                where=path,
                got=repr(name),
                expected="a text; in YAML, words such as yes, no, on and off need quotation marks",
            )
        if str(name).strip() in labels.values():
            raise DatasetError("A class stands twice", where=path, got=str(name))
        labels[number] = str(name).strip()
    return dict(sorted(labels.items()))

"""Which picture of a data set somebody else's file means: by name, with or without folder, or by id."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from appliance.errors import DatasetError

if TYPE_CHECKING:
    from appliance.annotations.dataset import AnnotatedImage


class PictureIndex:
    """Finds pictures by what a file calls them; see `appliance.evaluation.predictions` for the rules.

    Args:
        images: The pictures of the data set.
        image_ids: The ids that a COCO data set gives them -> file name; empty for other formats.
    """

    def __init__(
        self, images: Sequence[AnnotatedImage], image_ids: Mapping[int | str, str]
    ) -> None:
        self._paths = [PurePosixPath(image.storage_path.replace("\\", "/")) for image in images]
        self._image_ids = image_ids
        self._by_name: dict[str, list[int]] = defaultdict(list)
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        self._by_number: dict[int, list[int]] = defaultdict(list)
        for index, path in enumerate(self._paths):
            self._by_name[path.name].append(index)
            self._by_stem[path.stem].append(index)
            if path.stem.isdecimal():
                self._by_number[int(path.stem)].append(index)

    def index_of(self, row: Mapping[str, Any], where: str) -> int:
        """The picture that `file_name` or `image_id` of a detection means.

        Args:
            row: The detection.
            where: Its place, for messages.

        Raises:
            DatasetError: None or several, or it does not say.
        """
        name, image_id = row.get("file_name"), row.get("image_id")
        if isinstance(name, str) and name:
            return self._only(self.named(name), f"file_name {name!r}", where)
        if isinstance(image_id, str) and image_id:
            candidates = self.named(self._image_ids.get(image_id, image_id))
            return self._only(candidates, f"image_id {image_id!r}", where)
        if isinstance(image_id, int) and not isinstance(image_id, bool):
            if image_id in self._image_ids:
                candidates = self.named(self._image_ids[image_id])
            else:
                candidates = [] if self._image_ids else self._by_number.get(image_id, [])
            return self._only(candidates, f"image_id {image_id}", where)
        raise DatasetError(
            "A detection does not say which picture it belongs to",
            where=where,
            got=f"file_name {quoted(name)}, image_id {quoted(image_id)}",
            expected="a file_name, or an image_id",
        )

    def named(self, name: str) -> list[int]:
        """All pictures of a name, with or without folder and extension."""
        wanted = PurePosixPath(name.replace("\\", "/"))
        candidates = self._by_name.get(wanted.name) or self._by_stem.get(wanted.name) or []
        if len(candidates) < 2:
            return candidates
        return [
            index
            for index in candidates
            if _ends_with(self._paths[index], wanted)
            or _ends_with(self._paths[index].with_suffix(""), wanted)
        ]

    def _only(self, candidates: Sequence[int], got: str, where: str) -> int:
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise DatasetError(
                "A detection may mean several pictures",
                where=where,
                got=got,
                expected=f"one of {self._paths[candidates[0]]}, {self._paths[candidates[1]]}, ...",
                hint="Give file_name with its folder",
            )
        raise DatasetError(
            "A detection is on a picture that the data set does not have",
            where=where,
            got=got,
            expected=f"one of {len(self._paths)} pictures, as {self._paths[0].name}",
            hint="Give the data that the detections were made on, and file_name in each of them",
        )


def quoted(value: Any) -> str:
    """A value of a JSON file for a message, not too long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _ends_with(path: PurePosixPath, end: PurePosixPath) -> bool:
    parts = [part for part in end.parts if part not in ("/", ".")]
    return list(path.parts[-len(parts) :]) == parts

"""Pictures that a file names (COCO JSON, CSV, YOLO lists): where they lie, and what they are called here."""

from __future__ import annotations

import os
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from appliance import storage
from appliance.annotations.formats.inside import (
    home_of,
    is_absolute,
    leads_out,
    lies_inside,
    outside_error,
    parent_of,
)
from appliance.annotations.formats.listing import Listing, base_name, stem
from appliance.annotations.formats.parts import PARTS, words_of
from appliance.annotations.source import Fault
from appliance.errors import DatasetError, StorageError

PICTURE_FOLDERS = ("images", "JPEGImages")


class PictureFinder:
    """Looks in the usual places: beside the file, in `images/`, in the folder of the part it speaks of
    (`train2017/`, `images/train/`), and the same one folder up; a name that is not found is tried without
    its leading folders, for they are often those of another machine. All of it within the folder of the
    data, see `inside`.

    Args:
        annotation_path: The file that names the pictures.
        images_root: A folder elsewhere, where pictures may lie too; looked in first.
    """

    def __init__(
        self, annotation_path: str, images_root: str | os.PathLike[str] | None = None
    ) -> None:
        words = words_of(PurePosixPath(base_name(annotation_path)).stem)
        special = (*words, *(f"images/{word}" for word in words))
        self._annotation_path = annotation_path
        self._root = parent_of(annotation_path) or "."
        self._home = home_of(annotation_path)
        self._listed: dict[str, dict[str, str]] = {}
        self._allowed = [self._home]
        self._places: list[tuple[str, tuple[str, ...]]] = []
        if images_root is not None:
            self._allowed.append(os.fspath(images_root))
            self._places.append((os.fspath(images_root), (*special, "", *PICTURE_FOLDERS)))
        self._places.append((self._root, ("", *special, "images")))
        above = parent_of(self._root)
        if above is not None and lies_inside(above, self._home):
            self._places.append((above, (*special, *PICTURE_FOLDERS, "")))

    def find(self, file_name: str) -> str | None:
        """Where the picture lies, None if nowhere.

        Raises:
            DatasetError: Nowhere within the folder of the data, and its name is one of a place outside.
        """
        if is_absolute(file_name) and not self._leads_out(file_name):
            if storage.is_remote(file_name):
                return file_name
            if storage.local_path(file_name).is_file():
                return file_name
        name = plain_name(file_name)
        while name:
            for root, folders in self._places:
                for folder in folders:
                    path = self._file(root, f"{folder}/{name}" if folder else name)
                    if path is not None:
                        return path
            name = name.partition("/")[2]
        if self._leads_out(file_name):
            raise outside_error("A picture", self._annotation_path, file_name, self._home)
        return None

    def find_all(
        self, file_names: Iterable[str]
    ) -> tuple[dict[str, str | None], tuple[Fault, ...]]:
        """File name -> where the picture lies, None if nowhere; and those that lie outside."""
        found: dict[str, str | None] = {}
        faults: list[Fault] = []
        for file_name in file_names:
            try:
                found[file_name] = self.find(file_name)
            except DatasetError as error:
                faults.append(Fault("picture-outside", error))
        return found, tuple(faults)

    def _leads_out(self, file_name: str) -> bool:
        return all(leads_out(file_name, self._root, folder) for folder in self._allowed)

    def _file(self, root: str, name: str) -> str | None:
        if not storage.is_remote(root):
            path = storage.join(str(storage.local_path(root)), name) if root != "." else name
            return path if os.path.isfile(path) else None
        if root not in self._listed:
            try:
                self._listed[root] = Listing.of(root).files
            except StorageError:  # above the data, where one may not be allowed to look
                self._listed[root] = {}
        return self._listed[root].get(name)


def plain_name(file_name: str) -> str:
    """A file name as it is found on any machine: forward slashes, no drive, nothing above the folder."""
    name = file_name.partition("://")[2] if storage.is_remote(file_name) else file_name
    name = re.sub(r"^[A-Za-z]:", "", name.strip().replace("\\", "/"))
    parts = posixpath.normpath(name).split("/")
    return "/".join(part for part in parts if part not in ("", ".", ".."))


def entry_names(file_names: Sequence[str]) -> dict[str, str]:
    """File name -> name of the entry: unique, below the folder of pictures, without extension.

    Leading folders that all share and that only say "pictures" or name a part are left out. Two pictures
    that differ in their extension only keep it.
    """
    names = {file_name: plain_name(file_name) for file_name in file_names}
    while names and (folder := _shared_folder(names.values())) is not None:
        names = {file_name: name[len(folder) + 1 :] for file_name, name in names.items()}
    uses = Counter(stem(name) for name in names.values())
    return {
        file_name: stem(name) if uses[stem(name)] == 1 else name
        for file_name, name in names.items()
    }


def _shared_folder(names: Iterable[str]) -> str | None:
    folders = {name.partition("/")[0] if "/" in name else None for name in names}
    folder = folders.pop() if len(folders) == 1 else None
    return folder if folder in (*PICTURE_FOLDERS, *PARTS) or words_of(folder or "") else None

"""What lies in the folder of a dataset, listed once, on disk and in a bucket alike.

Readers of formats decide from the names alone which file belongs to which; nothing is opened here.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePosixPath
from urllib.parse import unquote

from appliance import storage
from appliance.errors import StorageError
from appliance.images.decoding import EXTENSIONS

ANNOTATION_EXTENSIONS = (".xml", ".json", ".csv", ".tsv", ".txt", ".yaml", ".yml", ".names")


@dataclass(frozen=True)
class Listing:
    """The files of a folder that can belong to a dataset.

    Attributes:
        root: The folder as it was given.
        files: Path below the folder, with forward slashes -> how it is opened; sorted.
    """

    root: str
    files: dict[str, str]

    @classmethod
    def of(cls, folder: str | os.PathLike[str]) -> Listing:
        """Lists a folder and all below it.

        Raises:
            StorageError: It is not there or cannot be listed.
        """
        root = os.fspath(folder)
        if not storage.is_remote(root) and not storage.local_path(root).is_dir():
            _refuse_file(root)
            raise StorageError(
                "No such dataset folder", where=root, hint="Check the path of the data"
            )
        paths = storage.list_files(root, (*EXTENSIONS, *ANNOTATION_EXTENSIONS))
        return cls(root, dict(sorted((_below(root, path), path) for path in paths)))

    def has_folder(self, folder: str) -> bool:
        """Whether there is such a subfolder; a bucket knows only those that hold a file."""
        if any(name.startswith(f"{folder}/") for name in self.files):
            return True
        return (
            not storage.is_remote(self.root)
            and storage.local_path(storage.join(self.root, folder)).is_dir()
        )

    def under(self, folder: str, extensions: Iterable[str]) -> dict[str, str]:
        """The files below a subfolder, `""` for all, that end so; their paths are relative to it."""
        endings = tuple(extensions)
        prefix = f"{folder}/" if folder else ""
        return {
            name[len(prefix) :]: path
            for name, path in self.files.items()
            if name.startswith(prefix) and name.lower().endswith(endings)
        }

    def pictures(self, folder: str = "") -> dict[str, str]:
        """The pictures below a subfolder."""
        return self.under(folder, EXTENSIONS)


def stem(name: str) -> str:
    """A path below a folder without its extension."""
    return str(PurePosixPath(name).with_suffix(""))


def base_name(path: str | os.PathLike[str]) -> str:
    """The last name of an address as people know it: decoded, without the options of its store."""
    text = os.fspath(path)
    if not storage.is_remote(text):
        return storage.local_path(storage.absolute(text)).name
    name = PurePosixPath(text.partition("?")[0].partition("::")[0]).name
    return unquote(name) if _is_encoded(text) else name


def ending(path: str | os.PathLike[str]) -> str:
    """The extension in lower case, with its dot."""
    return PurePosixPath(base_name(path)).suffix.lower()


def _refuse_file(path: str) -> None:
    if storage.local_path(path).exists():
        raise StorageError(
            "Not a folder of annotated pictures",
            where=path,
            got="a picture" if ending(path) in EXTENSIONS else "a file",
            expected="a folder, or a file of annotations (.json, .csv, .tsv, .yaml, .txt)",
            hint="Give the folder that holds the pictures with their annotations",
        )


def _is_encoded(uri: str) -> bool:
    return "%25" in storage.join(uri, "%")


def _below(root: str, path: str) -> str:
    """The path of a listed file below its folder: what `storage.join` made of it, undone."""
    if not storage.is_remote(root):
        return path[len(str(storage.local_path(root))) :].lstrip("/")
    before, _, after = storage.join(root, "_name_").rpartition("_name_")
    name = path[len(before) : len(path) - len(after)]
    return unquote(name) if _is_encoded(root) else name

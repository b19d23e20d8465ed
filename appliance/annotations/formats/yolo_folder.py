"""A YOLO folder: its classes, its parts, and which text file belongs to which picture.

As Ultralytics lays it out (`images/train` beside `labels/train`), as Roboflow does (`train/images` beside
`train/labels`), or with each text file beside its picture (LabelImg, CVAT). Classes and parts stand in
`data.yaml`; without one the classes stand in `classes.txt` or `obj.names`.
"""

from __future__ import annotations

import os
from dataclasses import replace
from functools import partial
from pathlib import PurePosixPath

from appliance import storage
from appliance.annotations.formats import yolo
from appliance.annotations.formats.inside import parent_of
from appliance.annotations.formats.listing import Listing, base_name, ending, stem
from appliance.annotations.formats.named_pictures import PictureFinder, entry_names, plain_name
from appliance.annotations.formats.parts import PARTS, in_order
from appliance.annotations.formats.yolo_classes import DataYaml, exists, labels_in
from appliance.annotations.source import AnnotationSource, Entry, Fault
from appliance.errors import DatasetError, StorageError

YAML_NAMES = ("data.yaml", "data.yml", "dataset.yaml", "dataset.yml")
NAMES_FILES = ("classes.txt", "obj.names", "labels/classes.txt", "_darknet.labels")
_FOLDERS_UP = 2
_Listed = dict[str, tuple[str | None, str | None]]  # name -> picture and text file, as they exist
_NO_LABELS = ("classes.txt",)


def find_yaml(listing: Listing) -> str | None:
    """The file in the top folder that says what the data is: the usual name first."""
    top = {
        name: path for name, path in listing.under("", (".yaml", ".yml")).items() if "/" not in name
    }
    for name in (*YAML_NAMES, *top):
        if name in top and (name in YAML_NAMES or b"names" in storage.read_bytes(top[name])):
            return top[name]
    return None


def has_labels(listing: Listing) -> str | None:
    """A text file that belongs to a picture, if there is one."""
    pictures = {stem(name) for name in listing.pictures()}
    mirrored = _swapped(listing.root, "images", "labels")
    for folder in (listing.root, *([mirrored] if mirrored != listing.root else [])):
        texts = Listing.of(folder) if folder != listing.root and exists(folder) else listing
        for name in texts.under("", (".txt",)):
            if _swapped(stem(name), "labels", "images") in pictures:
                return name
    return None


def yolo_parts(listing: Listing) -> dict[str, str]:
    """The parts of a folder -> what `open_yolo` takes for each; empty if it is not divided."""
    path = find_yaml(listing)
    if path is not None:
        return yaml_parts(path)
    found: dict[str, str] = {}
    if any(name.rpartition("/")[0] in ("", "images") for name in listing.pictures()):
        return {}  # what lies at the top would be in no part
    for part in PARTS:
        for folder, pictures in ((f"images/{part}", f"images/{part}"), (part, f"{part}/images")):
            if listing.pictures(pictures):
                found.setdefault(part, storage.join(listing.root, *folder.split("/")))
    return in_order(found)


def yaml_parts(path: str) -> dict[str, str]:
    """The parts that `data.yaml` names, as `<file>#<part>`; empty if it names one that is all of it."""
    parts = DataYaml.read(path).parts
    if len(parts) == 1 and PurePosixPath(*parts.values()).name == "images":
        (place,) = parts.values()
        if not any(word in PARTS for word in PurePosixPath(place).parts):
            return {}
    return {part: f"{path}#{part}" for part in parts}


def open_yolo(
    path: str | os.PathLike[str], images_root: str | os.PathLike[str] | None = None
) -> AnnotationSource:
    """Lists YOLO data that is not divided, or one part of it.

    Args:
        path: The folder; the folder of pictures of a part; a text file that lists pictures; `data.yaml`,
            or `data.yaml#train` for a part that it names.
        images_root: A folder of pictures elsewhere. Their text files lie as usual beside them, or in the
            folder of the data.

    Raises:
        StorageError: It is not there.
        DatasetError: The classes have no names, there are no pictures or no labels, or a part lies
            outside of the folder of the data.
    """
    root = os.fspath(path)
    file, _, part = root.rpartition("#") if "#" in root else (root, "", "")
    labels: dict[int, str] | None = None
    elsewhere = None if images_root is None else os.fspath(images_root)
    place, home, texts_in = file, file, "labels"
    if ending(file) in (".yaml", ".yml"):
        data_yaml, home = DataYaml.read(file), parent_of(file) or "."
        labels = data_yaml.labels
        named = part or next(iter(data_yaml.parts), "")
        place = data_yaml.place_of(named, elsewhere) if named else elsewhere or home
        texts_in = _swapped(plain_name(data_yaml.parts.get(named, "images")), "images", "labels")
    elif ending(file) != ".txt":
        top = find_yaml(Listing.of(file))
        if top is not None:
            return replace(open_yolo(top, images_root), root=root)
        place = elsewhere or file
    labels = labels or _find_labels(home if elsewhere else place)
    if ending(place) == ".txt":
        listed, outside = _listed_in(place, elsewhere)
    else:
        texts = None if elsewhere is None else storage.join(home, *texts_in.split("/"))
        listed, outside = _below(place, texts), ()
    if not any(picture for picture, _ in listed.values()) and not outside:
        raise DatasetError("The dataset is empty", where=root, expected="pictures")
    if not any(label_path for _, label_path in listed.values()) and not outside:
        raise DatasetError(
            "No picture has labels",
            where=root,
            expected=f"text files such as {_label_path(_first_picture(listed))}",
        )
    names = entry_names(list(listed))
    entries: list[Entry] = []
    for name, (picture, label_path) in listed.items():
        described_by = label_path or _label_path(picture or name)
        examine = partial(yolo.examine, picture, label_path, labels, source=described_by)
        entries.append(Entry(names[name], picture, described_by, examine))
    entries.sort(key=lambda entry: entry.name)
    unlabelled = sorted(
        f"{names[name]}{PurePosixPath(base_name(picture)).suffix}"
        for name, (picture, label_path) in listed.items()
        if picture and not label_path
    )
    return AnnotationSource(
        root,
        "yolo",
        tuple(entries),
        labels=tuple(labels.values()),
        faults=outside,
        unlabelled=tuple(unlabelled),
    )


def _below(folder: str, texts_elsewhere: str | None = None) -> _Listed:
    """The pictures below a folder with their text files, and text files in `labels/` without a picture.

    Args:
        folder: Where the pictures lie.
        texts_elsewhere: Another folder of text files, named like the pictures.
    """
    listing = Listing.of(folder)
    texts: dict[str, str] = {}
    meant_for_pictures: set[str] = set()
    for name, path in listing.under("", (".txt",)).items():
        twin = _swapped(stem(name), "labels", "images")
        texts[twin] = path
        if twin != stem(name) and PurePosixPath(name).name not in _NO_LABELS:
            meant_for_pictures.add(twin)
    mirrored = _swapped(folder, "images", "labels")
    for other in dict.fromkeys((texts_elsewhere or folder, mirrored)):
        if other == folder or not exists(other):
            continue
        for name, path in Listing.of(other).under("", (".txt",)).items():
            if PurePosixPath(name).name not in _NO_LABELS:
                texts[stem(name)] = path
                meant_for_pictures.add(stem(name))
    pictures = listing.pictures()
    listed: _Listed = {name: (path, texts.get(stem(name))) for name, path in pictures.items()}
    for twin in sorted(meant_for_pictures - {stem(name) for name in pictures}):
        listed[f"{twin}.txt"] = (None, texts[twin])
    return listed


def _listed_in(text_path: str, images_root: str | None) -> tuple[_Listed, tuple[Fault, ...]]:
    """The pictures that a text file lists, one in a line; and those of them that lie outside."""
    lines = (
        line.strip() for line in storage.read_bytes(text_path).decode("utf-8-sig").splitlines()
    )
    finder = PictureFinder(text_path, images_root)
    pictures, outside = finder.find_all(dict.fromkeys(line for line in lines if line))
    found = [path for path in pictures.values() if path is not None]
    texts = _existing({_label_path(path) for path in found})
    listed: _Listed = {
        line: (path, None if path is None or _label_path(path) not in texts else _label_path(path))
        for line, path in pictures.items()
    }
    return listed, outside


def _existing(paths: set[str]) -> set[str]:
    remote_folders = {parent_of(path) or path for path in paths if storage.is_remote(path)}
    listed = {
        path
        for folder in remote_folders
        if exists(folder)
        for path in storage.list_files(folder, (".txt",))
    }
    return {path for path in paths if path in listed or os.path.isfile(path)}


def _label_path(picture_path: str) -> str:
    """Where the text file of a picture belongs: in `labels/` for one in `images/`, else beside it."""
    prefix, mark, options = _swapped(picture_path, "images", "labels").partition("?")
    return f"{os.path.splitext(prefix)[0]}.txt{mark}{options}"


def _swapped(path: str, old: str, new: str) -> str:
    """The path with its last folder `old` called `new`; unchanged if it has none."""
    prefix, mark, options = path.partition("?")
    before, slash, after = f"/{prefix}/".rpartition(f"/{old}/")
    return f"{before}/{new}/{after}"[1:-1] + mark + options if slash else path


def _first_picture(listed: _Listed) -> str:
    return next(picture for picture, _ in listed.values() if picture is not None)


def _find_labels(place: str) -> dict[int, str]:
    """The classes of a folder of pictures, from the files that name them there or a little above."""
    folder: str | None = parent_of(place) if ending(place) == ".txt" else place
    looked_in: list[str] = []
    while folder is not None and len(looked_in) <= _FOLDERS_UP:
        looked_in.append(folder)
        for name in (*YAML_NAMES, *NAMES_FILES):
            path = storage.join(folder, *name.split("/"))
            try:
                labels = DataYaml.read(path).labels if name in YAML_NAMES else labels_in(path)
            except StorageError:
                continue
            if labels:
                return labels
        folder = parent_of(folder)
    raise DatasetError(
        "The classes have no names",
        where=place,
        expected=f"names in data.yaml, or in classes.txt or obj.names, in {looked_in[0]} or up to "
        f"{_FOLDERS_UP} folders above",
    )

"""A Pascal VOC folder: which picture belongs to which annotation.

A picture and its annotation share the path below their folders up to the extension; what the XML itself
says in `<filename>` is ignored, because it is wrong as soon as somebody renames a file. Where only one of
the two is nested in folders, the bare name decides if it is the only one of its kind.

Laid out as `Annotations/` beside `JPEGImages/` (VOC, CVAT), as `Annotations/` beside `images/` (Label
Studio), or with each XML beside its picture (LabelImg).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import PurePosixPath

from appliance import storage
from appliance.annotations.formats import pascal_voc
from appliance.annotations.formats.listing import Listing, base_name, stem
from appliance.annotations.source import AnnotationSource, Entry, no_annotation
from appliance.errors import DatasetError

ANNOTATIONS_DIR = "Annotations"
IMAGE_SUBDIRECTORY = "JPEGImages"
_OTHER_ANNOTATIONS_DIRS = ("annotations",)
_OTHER_IMAGE_SUBDIRECTORIES = ("images", "Images")


def open_voc(
    data_dir: str | os.PathLike[str],
    annotations_dir: str = ANNOTATIONS_DIR,
    image_subdirectory: str = IMAGE_SUBDIRECTORY,
    images_root: str | os.PathLike[str] | None = None,
) -> AnnotationSource:
    """Lists a Pascal VOC folder.

    Args:
        data_dir: The folder.
        annotations_dir: Its subfolder with XML files. Unless another than the default is named, the
            other usual layouts are found too.
        image_subdirectory: Its subfolder with pictures, likewise.
        images_root: A folder of pictures elsewhere, instead of the subfolder; of those in it, the
            annotated ones belong to the data.

    Raises:
        StorageError: `data_dir` is not there.
        DatasetError: A subfolder is not there, or neither holds anything.
    """
    listing = Listing.of(data_dir)
    if images_root is None:
        annotations_dir, image_subdirectory = _layout(listing, annotations_dir, image_subdirectory)
        listed = listing.pictures(image_subdirectory)
    else:
        annotations_dir = _annotations_folder(listing, annotations_dir, image_subdirectory)
        listed = _pictures_elsewhere(Listing.of(images_root), base_name(listing.root))
    annotations = {
        stem(name): path for name, path in listing.under(annotations_dir, (".xml",)).items()
    }
    pictures: dict[str, str] = {}
    doubled: dict[str, str] = {}
    for name, path in listed.items():
        if stem(name) in pictures:
            doubled[path] = stem(name)
        else:
            pictures[stem(name)] = path
    if not pictures and not annotations:
        raise DatasetError(
            "The dataset is empty",
            where=listing.root,
            expected=f"pictures in {image_subdirectory}/ and an XML for each in {annotations_dir}/",
        )
    annotation_of = _pairs(pictures, annotations)
    alone = annotations.keys() - annotation_of.values()
    entries = [
        _entry(name, path, annotations.get(annotation_of.get(name, "")))
        for name, path in pictures.items()
        if images_root is None or name in annotation_of
    ]
    if images_root is not None:
        doubled = {path: name for path, name in doubled.items() if name in annotation_of}
    entries += [_entry(name, None, annotations[name]) for name in alone]
    entries.sort(key=lambda entry: (entry.name, entry.picture_path or ""))
    return AnnotationSource(listing.root, "voc", tuple(entries), tuple(doubled))


def _layout(listing: Listing, annotations_dir: str, image_subdirectory: str) -> tuple[str, str]:
    usual = _is_usual(annotations_dir, image_subdirectory)
    annotations_dir = _annotations_folder(listing, annotations_dir, image_subdirectory)
    if not annotations_dir:
        return "", ""  # each XML beside its picture
    for folder in (image_subdirectory, *(_OTHER_IMAGE_SUBDIRECTORIES if usual else ())):
        if listing.has_folder(folder):
            return annotations_dir, folder
    if usual and listing.pictures():
        return annotations_dir, ""
    raise _missing(listing.root, image_subdirectory, "pictures")


def _annotations_folder(listing: Listing, annotations_dir: str, image_subdirectory: str) -> str:
    usual = _is_usual(annotations_dir, image_subdirectory)
    folders: list[str] = [annotations_dir, *(_OTHER_ANNOTATIONS_DIRS if usual else ())]
    for folder in folders:
        if listing.has_folder(folder):
            return folder
    if usual and listing.under("", (".xml",)):
        return ""
    raise _missing(listing.root, annotations_dir, "annotations")


def _is_usual(annotations_dir: str, image_subdirectory: str) -> bool:
    return (annotations_dir, image_subdirectory) == (ANNOTATIONS_DIR, IMAGE_SUBDIRECTORY)


def _pictures_elsewhere(listing: Listing, part: str) -> dict[str, str]:
    """The pictures of a folder elsewhere; of a part those in the folder of its name, if there is one."""
    for folder in (f"{part}/{IMAGE_SUBDIRECTORY}", part, IMAGE_SUBDIRECTORY, ""):
        if pictures := listing.pictures(folder):
            return pictures
    return {}


def _missing(root: str, folder: str, what: str) -> DatasetError:
    return DatasetError(
        f"The dataset has no folder of {what}",
        where=storage.join(root, folder),
        expected=f"a folder {folder!r}",
        hint="Name the right subfolder, or move the files there",
    )


def _pairs(pictures: Mapping[str, str], annotations: Mapping[str, str]) -> dict[str, str]:
    """Name of a picture -> name of its annotation."""
    pairs = {name: name for name in pictures if name in annotations}
    lonely_pictures = _only_of_its_name(pictures.keys() - pairs)
    lonely_annotations = _only_of_its_name(annotations.keys() - pairs)
    for bare_name, name in lonely_pictures.items():
        # A bare name that occurs in two folders with annotations of their own belongs to neither.
        if bare_name in lonely_annotations:
            pairs[name] = lonely_annotations[bare_name]
    return pairs


def _only_of_its_name(names: set[str]) -> dict[str, str]:
    found: dict[str, list[str]] = {}
    for name in names:
        found.setdefault(PurePosixPath(name).name, []).append(name)
    return {bare_name: same[0] for bare_name, same in found.items() if len(same) == 1}


def _entry(name: str, picture_path: str | None, annotation_path: str | None) -> Entry:
    if annotation_path is None:
        return Entry(name, picture_path, None, partial(no_annotation, picture_path))
    return Entry(name, picture_path, annotation_path, partial(pascal_voc.examine, annotation_path))

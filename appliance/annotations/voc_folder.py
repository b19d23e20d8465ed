"""A Pascal VOC folder on disk or in a bucket: which picture belongs to which annotation, and how its
boxes lie in the picture as it is decoded.

A picture and its annotation share the file name up to the extension; what the XML itself says in
`<filename>` is ignored, because it is wrong as soon as somebody renames a file.
"""

from __future__ import annotations

import io
import os
import struct
import warnings
from dataclasses import dataclass
from pathlib import PurePosixPath

import numpy as np
import numpy.typing as npt
from PIL import ExifTags, Image, UnidentifiedImageError

from appliance import storage
from appliance.annotations.pascal_voc import VocAnnotation
from appliance.errors import DatasetError, StorageError
from appliance.images.decoding import EXTENSIONS, FORMATS

_SWAPPING_ORIENTATIONS = (5, 6, 7, 8)


@dataclass(frozen=True)
class VocFolder:
    """What lies in one folder.

    Attributes:
        data_dir: The folder.
        pictures: Name without extension -> path of the picture, sorted by name.
        annotations: Name without extension -> path of the XML file, sorted by name.
        doubled: Pictures that share their name with one in `pictures`.
    """

    data_dir: str
    pictures: dict[str, str]
    annotations: dict[str, str]
    doubled: tuple[str, ...]

    @classmethod
    def scan(
        cls,
        data_dir: str | os.PathLike[str],
        annotations_dir: str = "Annotations",
        image_subdirectory: str = "JPEGImages",
    ) -> VocFolder:
        """Lists a folder.

        Raises:
            StorageError: `data_dir` is not there.
            DatasetError: A subfolder is not there, or neither holds anything.
        """
        root = os.fspath(data_dir)
        if not storage.is_remote(root) and not storage.local_path(root).is_dir():
            raise StorageError(
                "No such dataset folder", where=root, hint="Check the path of the data"
            )
        annotation_paths = _list(root, annotations_dir, (".xml",), "annotations")
        picture_paths = _list(root, image_subdirectory, EXTENSIONS, "pictures")
        pictures: dict[str, str] = {}
        doubled: list[str] = []
        for name, path in picture_paths:
            if name in pictures:
                doubled.append(path)
            else:
                pictures[name] = path
        if not pictures and not annotation_paths:
            raise DatasetError(
                "The dataset is empty",
                where=root,
                expected=f"pictures in {image_subdirectory}/ and an XML for each in "
                f"{annotations_dir}/",
            )
        return cls(root, pictures, dict(annotation_paths), tuple(doubled))


@dataclass(frozen=True)
class PictureHeader:
    """What the first bytes of a picture tell.

    Attributes:
        stored_hw: Height and width of the pixels as stored.
        orientation: EXIF orientation, 1 to 8.
    """

    stored_hw: tuple[int, int]
    orientation: int

    @property
    def size_hw(self) -> tuple[int, int]:
        """Height and width of the picture as it is decoded: upright."""
        swapped = self.orientation in _SWAPPING_ORIENTATIONS
        return self.stored_hw[::-1] if swapped else self.stored_hw

    @classmethod
    def read(cls, path: str) -> PictureHeader:
        """Reads the header only, no pixels.

        Raises:
            DatasetError: The file is no picture.
            StorageError: The file cannot be read.
        """
        try:
            source = (
                io.BytesIO(storage.read_bytes(path))
                if storage.is_remote(path)
                else storage.local_path(path)
            )
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)
                with Image.open(source, formats=FORMATS) as image:
                    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
                    valid = orientation in range(1, 9)
                    return cls((image.height, image.width), orientation if valid else 1)
        except UnidentifiedImageError:
            reason: object = "no picture that can be read"
        except (
            Image.DecompressionBombError,
            OSError,
            ValueError,
            SyntaxError,
            EOFError,
            IndexError,
            struct.error,
        ) as error:
            reason = error
        raise DatasetError(
            "A picture of the dataset cannot be read",
            where=path,
            got=reason,
            hint="Repair it, or remove it together with its annotation",
        )


def boxes_in_picture(
    annotation: VocAnnotation, header: PictureHeader, *, source: str
) -> npt.NDArray[np.float64]:
    """The boxes of an annotation in pixels of the upright picture, `[N, 4]` xyxy, unchecked.

    Annotation tools that ignore EXIF orientation describe the picture as stored; one sees it from the
    size they write, and their boxes are turned with the picture.

    Raises:
        DatasetError: The annotation gives another size than the picture has.
    """
    boxes = np.array([item.box_xyxy for item in annotation.objects], np.float64).reshape(-1, 4)
    if annotation.size_hw in (None, header.size_hw):
        return boxes
    if annotation.size_hw != header.stored_hw:
        given_height, given_width = annotation.size_hw or (0, 0)
        height, width = header.size_hw
        raise DatasetError(
            "Annotation and picture disagree about the size",
            where=source,
            got=f"{given_width}x{given_height} in the XML",
            expected=f"{width}x{height} as the picture has",
            hint="Annotate the picture anew, or restore the one that was annotated",
        )
    height, width = header.stored_hw
    x1, y1, x2, y2 = boxes.T
    turned = {
        5: (y1, x1, y2, x2),
        6: (height - y2, x1, height - y1, x2),
        7: (height - y2, width - x2, height - y1, width - x1),
        8: (y1, width - x2, y2, width - x1),
    }
    return np.stack(turned[header.orientation], axis=1)


def box_fault(box_xyxy: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> str | None:
    """What makes a box unusable, or None. A box over the edge is usable, it only needs clipping."""
    x1, y1, x2, y2 = box_xyxy
    height, width = size_hw
    if x2 <= x1 or y2 <= y1:
        return "has no area"
    if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
        return "lies outside the picture"
    return None


def format_box(box_xyxy: npt.NDArray[np.floating]) -> str:
    """A box for messages."""
    x1, y1, x2, y2 = (f"{float(value):g}" for value in box_xyxy)
    return f"xmin {x1}, ymin {y1}, xmax {x2}, ymax {y2}"


def _list(
    root: str, subfolder: str, extensions: tuple[str, ...], what: str
) -> list[tuple[str, str]]:
    folder = f"{root.rstrip('/')}/{subfolder}"
    try:
        paths = storage.list_files(folder, extensions)
    except StorageError:
        raise DatasetError(
            f"The dataset has no folder of {what}",
            where=folder,
            expected=f"a folder {subfolder!r}",
            hint="Name the right subfolder, or move the files there",
        ) from None
    prefix = str(storage.local_path(folder)) if not storage.is_remote(folder) else folder
    named = [
        (str(PurePosixPath(path[len(prefix) :].lstrip("/\\")).with_suffix("")), path)
        for path in paths
    ]
    return sorted(named)

"""What is wrong with one picture and its annotation, each read once; nothing of them is kept but counts,
hashes, looks and findings.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import torch

from appliance import storage
from appliance.annotations.checks.findings import Finding
from appliance.annotations.checks.near_duplicates import Look
from appliance.annotations.checks.objects import InputSize, check_objects, usable_objects
from appliance.annotations.placing import boxes_in_picture
from appliance.annotations.source import Entry, PictureAnnotation
from appliance.errors import ApplianceError, DatasetError, ImageError, StorageError
from appliance.images.decoding import decode_image
from appliance.images.header import PictureHeader
from appliance.images.orientation import UPRIGHT

_PROBE_SIDE_PX = 64  # decodes every byte of a JPEG, but not every pixel
_DIGEST_BYTES = 16


@dataclass(frozen=True)
class PictureDigest:
    """What tells whether two pictures are the same.

    Attributes:
        pixels: Hash of the decoded pixels; equal for a copy with other metadata or in another lossless
            encoding. Of a picture in a single colour, hash of the file.
        content: Hash of the file.
        objects: Hash of what is annotated on it.
        look: What a copy in another size or encoding shares; None for a single colour.
    """

    pixels: bytes
    content: bytes
    objects: bytes = b""
    look: Look | None = None


@dataclass(frozen=True)
class Inspected:
    """What one entry of a dataset showed.

    Attributes:
        entry: The entry.
        findings: What is wrong with it.
        digest: Of its picture, None if that cannot be read.
        labels: Of its objects, in their order.
        usable: Which of its objects a model can be trained with.
        size_hw: Of the upright picture, None if it cannot be read.
    """

    entry: Entry
    findings: tuple[Finding, ...]
    digest: PictureDigest | None
    labels: tuple[str, ...] = ()
    usable: tuple[bool, ...] = ()
    size_hw: tuple[int, int] | None = None


def inspect_entry(entry: Entry, *, part: str, input_size: InputSize) -> Inspected:
    """Reads and checks one picture with its annotation, or either of them alone."""
    findings: list[Finding] = []
    digest = header = None
    if entry.picture_path is not None:
        digest, header, faults = _inspect_picture(entry.picture_path)
        findings += [
            Finding(code, entry.picture_path, what, part, entry.name) for code, what in faults
        ]
        if entry.annotation_path is None:
            what = "has no annotation; a picture without objects needs an empty one"
            findings.append(
                Finding("picture-without-annotation", entry.picture_path, what, part, entry.name)
            )
    if entry.annotation_path is None:
        return Inspected(entry, tuple(findings), digest)
    if entry.picture_path is None:
        what = f"there is no picture {entry.name}"
        findings.append(
            Finding("annotation-without-picture", entry.annotation_path, what, part, entry.name)
        )
    try:
        annotation = entry.read()
    except ApplianceError as error:
        # Some formats need the picture to read its annotation: what is wrong with it is said already.
        if entry.picture_path is not None and error.where != entry.picture_path:
            file, what = error.where or entry.annotation_path, text_of_error(error)
            findings.append(Finding("annotation-unreadable", file, what, part, entry.name))
        return Inspected(entry, tuple(findings), digest)
    labels = tuple(item.label for item in annotation.objects)
    usable = (False,) * len(labels)
    if digest is not None and header is not None:
        found, usable = _inspect_annotation(annotation, header, entry, part, input_size)
        findings += found
        digest = replace(digest, objects=_hash_objects(annotation))
    size_hw = None if header is None else header.size_hw
    return Inspected(entry, tuple(findings), digest, labels, usable, size_hw)


def needs_guessing(annotation: PictureAnnotation, header: PictureHeader) -> bool:
    """Whether nothing tells if boxes belong to the picture as it is stored or as it is shown."""
    if header.orientation == UPRIGHT or not annotation.objects:
        return False
    return annotation.size_hw is None or header.stored_hw == header.size_hw


def text_of_error(error: ApplianceError) -> str:
    """An error as the text of a finding: the file is said there already."""
    facts = [f"got {error.got}"] if error.got else []
    facts += [f"expected {error.expected}"] if error.expected else []
    what = error.what[:1].lower() + error.what[1:]
    return f"{what} ({', '.join(facts)})" if facts else what


def _inspect_picture(
    path: str,
) -> tuple[PictureDigest | None, PictureHeader | None, list[tuple[str, str]]]:
    """Digest and header of a picture, None if it cannot be used; and what is wrong: codes and texts."""
    try:
        data = storage.read_bytes(path)
        pixels = decode_image(data, source=path, min_shorter_side_px=_PROBE_SIDE_PX).pixels
        header = PictureHeader.read(path)
    except ImageError as error:
        return None, None, [(_code_of(error, path), text_of_error(error))]
    except (DatasetError, StorageError) as error:
        return None, None, [("picture-unreadable", text_of_error(error))]
    content = _hash(data)
    if _has_one_colour(pixels):
        colour = ", ".join(str(int(value)) for value in pixels[:, 0, 0])
        what = f"every pixel has the colour ({colour}): was it taken or saved at all?"
        return PictureDigest(content, content), header, [("picture-blank", what)]
    rows = pixels.permute(1, 2, 0).contiguous().numpy()
    pixels_hash = _hash(repr(rows.shape).encode(), rows.data)
    return PictureDigest(pixels_hash, content, look=Look.of(pixels)), header, []


def _code_of(error: ImageError, path: str) -> str:
    if error.kind == "empty":
        return "picture-empty"
    if error.kind == "too_large":
        return "picture-too-large"
    try:
        PictureHeader.read(path)
    except (DatasetError, StorageError):
        return "picture-unreadable"
    return "picture-damaged"


def _has_one_colour(pixels: torch.Tensor) -> bool:
    flat = pixels.permute(1, 2, 0)
    return bool((flat[0] == flat[0, 0]).all()) and bool((flat == flat[0, 0]).all())


def _inspect_annotation(
    annotation: PictureAnnotation,
    header: PictureHeader,
    entry: Entry,
    part: str,
    input_size: InputSize,
) -> tuple[list[Finding], tuple[bool, ...]]:
    file = str(entry.annotation_path)

    def make(code: str, what: str) -> Finding:
        return Finding(code, file, what, part, entry.name)

    try:
        boxes = boxes_in_picture(annotation, header, source=file)
    except DatasetError as error:
        return [make("size-mismatch", text_of_error(error))], (False,) * len(annotation.objects)
    findings = []
    if needs_guessing(annotation, header):
        why = "gives no size" if annotation.size_hw is None else "gives a size that fits both"
        what = (
            f"EXIF orientation {header.orientation} turns the picture, and the annotation {why}: "
            f"its boxes are taken for boxes of the turned picture"
        )
        findings.append(make("exif-ambiguous", what))
    findings += check_objects(
        annotation.objects,
        boxes,
        header.size_hw,
        file=file,
        part=part,
        picture=entry.name,
        input_size=input_size,
    )
    return findings, tuple(usable_objects(boxes, header.size_hw))


def _hash_objects(annotation: PictureAnnotation) -> bytes:
    return _hash(repr(sorted((item.label, item.box_xyxy) for item in annotation.objects)).encode())


def _hash(*parts: bytes | memoryview) -> bytes:
    digest = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()

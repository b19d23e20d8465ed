"""What a model file says of itself, read without its tensors and without torch."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import ModelFileError

FORMAT_VERSION = 1
METADATA_KEY = "appliance"
MAX_HEADER_BYTES = 100_000_000  # the limit of safetensors itself


@dataclass(frozen=True)
class FileHeader:
    """The description in a model file.

    Attributes:
        labels: In the order of their ids.
        architecture: Word for the network.
        metrics: Name -> value, as measured after training.
        dataset_digest: Of the training data.
        parent: Where its starting weights came from.
    """

    labels: tuple[str, ...]
    architecture: str
    metrics: Mapping[str, float]
    dataset_digest: str | None
    parent: str | None


def read_header(data: bytes, *, source: str) -> FileHeader:
    """Reads the header of a whole model file.

    That the tensors are those of the network is for `model_file.load` to say; that they are all there is known here.

    Args:
        data: The file.
        source: Its name, for messages.

    Raises:
        ModelFileError: It is no model file of the appliance, is cut short or is of a newer format.
    """
    header, end = _header(data, source)
    document = parse_metadata(_mapping(header.get("__metadata__")), source=source)
    try:
        offsets = [entry["data_offsets"][1] for name, entry in header.items() if name[:2] != "__"]
        expected = end + max(map(int, offsets), default=0)
        spec = _mapping(document["spec"])
        found = FileHeader(
            tuple(map(_text, spec["labels"])),
            _text(spec["architecture"]),
            {
                _text(name): float(value)
                for name, value in _mapping(document.get("metrics")).items()
                if type(value) in (int, float) and math.isfinite(value)
            },
            *(None if document.get(key) is None else _text(document[key]) for key in _TEXTS),
        )
    except (KeyError, IndexError, ValueError, TypeError, OverflowError) as error:
        raise ModelFileError(
            "The model file is damaged", where=source, got=f"{type(error).__name__}: {error}"
        ) from None
    if len(data) != expected:
        raise ModelFileError(
            "The model file is damaged",
            where=source,
            got=f"{len(data):,} bytes",
            expected=f"{expected:,} bytes, by its header",
        )
    return found


_TEXTS = ("dataset_digest", "parent")


def _text(value: object) -> str:
    """A text of a file that anybody may have made, fit to be shown."""
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def _header(data: bytes, source: str) -> tuple[dict[str, Any], int]:
    """The JSON at the beginning of a safetensors file, and where it ends."""
    end = 8 + int.from_bytes(data[:8], "little")
    try:
        if end > min(len(data), MAX_HEADER_BYTES):
            raise ValueError
        return _mapping(json.loads(data[8:end])), end
    except (ValueError, RecursionError):
        raise ModelFileError(
            "Not a model file",
            where=source,
            got=f"{len(data):,} bytes beginning {data[:8]!r}",
            expected="a .safetensors file that the appliance has written",
            hint="Train one with `appliance train`",
        ) from None


def _mapping(value: object) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def parse_metadata(metadata: Mapping[str, str], *, source: str) -> dict[str, Any]:
    """The document of the appliance in the metadata of a safetensors file.

    Raises:
        ModelFileError: There is none, or one of a newer format.
    """
    try:
        document = json.loads(metadata[METADATA_KEY])
        version = document["format_version"]
        # bool is an int to Python, and 1.0 equals 1.
        if type(version) is not int or version < 1:
            raise ValueError(f"format_version {version!r}")
    except (KeyError, ValueError, TypeError, RecursionError):
        raise ModelFileError(
            "Not a model file of the appliance",
            where=source,
            got="safetensors without the appliance's metadata",
            hint="A plain state dict can be given as starting weights: `appliance train --init FILE`",
        ) from None
    if version > FORMAT_VERSION:
        raise ModelFileError(
            "The model file is of a newer format",
            where=source,
            got=f"format {version}",
            expected=f"at most {FORMAT_VERSION}",
            hint="Update the appliance",
        )
    return dict(document)

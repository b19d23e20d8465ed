"""Tensors of the Open Inference Protocol, from its two forms on the wire and back into them.

| datatype | in JSON | in binary |
|---|---|---|
| BYTES | texts | each element as its length (four bytes, little-endian) and itself |
| numbers | numbers, nested or not | little-endian, row by row |

Nothing here trusts what it reads: what a shape promises must be there, to the byte, before memory is
taken for it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serve_app.errors import RequestError
from serve_app.http.json_bodies import json_type

BYTES = "BYTES"
UINT8 = "UINT8"
_DTYPES: dict[str, type[np.generic]] = {
    "FP32": np.float32,
    "INT32": np.int32,
    "INT64": np.int64,
    UINT8: np.uint8,
}
_LENGTH = struct.Struct("<I")
_MAX_DIMENSIONS = 8


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor that is answered.

    Attributes:
        name: As clients ask for it.
        datatype: BYTES, or a number's.
        shape: Elements along each dimension; any may be 0.
        values: Row by row: of BYTES the texts, of numbers an array in the shape.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    values: Sequence[str] | npt.NDArray[Any]

    @classmethod
    def of_numbers(cls, name: str, datatype: str, values: npt.ArrayLike) -> Tensor:
        """A tensor of numbers in the shape of `values`."""
        array = np.asarray(values, _DTYPES[datatype])
        return cls(name, datatype, array.shape, array)

    def to_binary(self) -> bytes:
        """The elements as they follow the JSON part of a body."""
        if isinstance(self.values, np.ndarray):
            return self.values.astype(self.values.dtype.newbyteorder("<")).tobytes()
        # Labels may come from anywhere: a half of a surrogate pair has no bytes in UTF-8.
        return bytes_to_binary(text.encode("utf-8", "replace") for text in self.values)

    def to_json(self) -> list[Any]:
        """The elements as JSON lists them, row by row."""
        if isinstance(self.values, np.ndarray):
            elements: list[Any] = self.values.ravel().tolist()
            return elements
        return list(self.values)


def bytes_to_binary(elements: Iterable[bytes]) -> bytes:
    """Elements of BYTES in their binary form."""
    return b"".join(part for item in elements for part in (_LENGTH.pack(len(item)), item))


def bytes_from_binary(data: memoryview, count: int, where: str) -> list[bytes]:
    """The elements of a BYTES tensor.

    Args:
        data: All of it.
        count: How many elements its shape promises.
        where: Its name, for messages.

    Raises:
        RequestError: 400, there are more or fewer of them, or one is cut off.
    """
    elements: list[bytes] = []
    start = 0
    while start < len(data):
        end = start + _LENGTH.size
        if end <= len(data):
            (length,) = _LENGTH.unpack_from(data, start)
            start, end = end, end + length
        if end > len(data):
            raise bad_tensor(f"{where}: element {len(elements)} is cut off")
        if len(elements) == count:
            raise bad_tensor(f"{where}: there are more than the {count} elements of its shape")
        elements.append(bytes(data[start:end]))
        start = end
    if len(elements) < count:
        raise bad_tensor(f"{where}: {len(elements)} elements, the shape needs {count}")
    return elements


def flattened(data: Any, count: int, where: str) -> list[Any]:
    """The elements of a JSON tensor, nested or not, row by row.

    Raises:
        RequestError: 400, it is no list, or does not have `count` elements.
    """
    if not isinstance(data, list):
        raise bad_tensor(f"{where}: data must be a list, got {json_type(data)}")
    elements = data
    for _ in range(_MAX_DIMENSIONS):
        if not any(isinstance(item, list) for item in elements):
            break
        if not all(isinstance(item, list) for item in elements):
            raise bad_tensor(f"{where}: data has lists and elements side by side")
        elements = [item for row in elements for item in row]
    if len(elements) != count:
        raise bad_tensor(f"{where}: {len(elements)} elements, the shape needs {count}")
    return elements


def uint8_from_json(elements: list[Any], where: str) -> bytes:
    """Numbers from 0 to 255 as bytes.

    Raises:
        RequestError: 400, one of them is something else.
    """
    try:
        return bytes(elements)
    except (TypeError, ValueError):
        raise bad_tensor(f"{where}: an element is no whole number from 0 to 255") from None


def checked_shape(shape: Any, where: str) -> tuple[int, ...]:
    """A shape as a client gives it.

    Raises:
        RequestError: 400, it is no list of one to eight whole numbers from 1.
    """
    good = isinstance(shape, list) and 1 <= len(shape) <= _MAX_DIMENSIONS
    if not good or not all(type(side) is int and 1 <= side < 2**31 for side in shape):
        raise bad_tensor(
            f"{where}: shape must list whole numbers from 1, at most {_MAX_DIMENSIONS}"
        )
    return tuple(shape)


def element_count(shape: Sequence[int]) -> int:
    """How many elements a shape has."""
    return math.prod(shape)


def bad_tensor(message: str) -> RequestError:
    """The error for a tensor that is not what it should be."""
    return RequestError(
        400, "invalid_tensor", message, hint="GET /v2/models/{name} describes the tensors"
    )

"""What the service says of itself and its models in the Open Inference Protocol.

Input and outputs are the same for every model:

| tensor | datatype, shape | what it holds |
|---|---|---|
| `image` (input) | BYTES `[n]` or `[n, 1]` | encoded pictures; in JSON their base64 |
| the same | UINT8 `[n, h, w, 3]` or `[h, w, 3]` | RGB pixels |
| `num_detections` | INT32 `[n]` | how many rows of a picture count; the others are zero |
| `boxes_xyxy` | FP32 `[n, k, 4]` | x1, y1, x2, y2 in pixels of the picture as sent |
| `scores` | FP32 `[n, k]` | best first |
| `class_ids` | INT64 `[n, k]` | from 1 |
| `labels` | BYTES `[n, k]` | their names |
| `size_hw` | INT32 `[n, 2]` | height and width of the picture as sent, EXIF orientation applied |
| `errors` | BYTES `[n]` | why a picture has no detections, or nothing |

`k` is the largest number of detections among the pictures of the request.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from serve_app.inference_protocol.tensors import BYTES

INPUT_NAME = "image"
SERVER_NAME = "detection-appliance"
EXTENSIONS = ("binary_tensor_data",)


@dataclass(frozen=True)
class TensorDescription:
    """A tensor as model metadata lists it; -1 stands for any number."""

    name: str
    datatype: str
    shape: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {"name": self.name, "datatype": self.datatype, "shape": list(self.shape)}


INPUTS = (TensorDescription(INPUT_NAME, BYTES, (-1,)),)
OUTPUTS = (
    TensorDescription("num_detections", "INT32", (-1,)),
    TensorDescription("boxes_xyxy", "FP32", (-1, -1, 4)),
    TensorDescription("scores", "FP32", (-1, -1)),
    TensorDescription("class_ids", "INT64", (-1, -1)),
    TensorDescription("labels", BYTES, (-1, -1)),
    TensorDescription("size_hw", "INT32", (-1, 2)),
    TensorDescription("errors", BYTES, (-1,)),
)
OUTPUT_NAMES = tuple(output.name for output in OUTPUTS)


def server_metadata() -> dict[str, Any]:
    """What `GET /v2` answers."""
    return {
        "name": SERVER_NAME,
        "version": version("detection-appliance"),
        "extensions": list(EXTENSIONS),
    }


def model_metadata(name: str, model_version: str) -> dict[str, Any]:
    """What `GET /v2/models/{name}` answers."""
    return {
        "name": name,
        "versions": [model_version],
        "platform": "detection_appliance_faster_rcnn",
        "inputs": [tensor.to_json() for tensor in INPUTS],
        "outputs": [tensor.to_json() for tensor in OUTPUTS],
    }

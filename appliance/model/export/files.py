"""Writes a detector as ONNX or TorchScript, for programs that have neither this library nor Python.

A file is written only after it has been run, from the very bytes to be written, on ten pictures and has
given the detector's answers. Both formats come from tracing one graph (see `graph`). For ONNX that is
torch's older exporter: the newer one took 150 s for the backbone alone where this takes 10 s for everything.
"""

from __future__ import annotations

import io
import json
import warnings
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torchvision

from appliance import storage
from appliance.errors import ConfigError, ModelFileError
from appliance.images.decoding import DecodedImage
from appliance.model import model_file
from appliance.model.export.graph import DetectorGraph
from appliance.model.export.parity import (
    MAX_BOX_DIFFERENCE_PX,
    MAX_SCORE_DIFFERENCE,
    Outputs,
    Parity,
    Runner,
    compare,
    drawn_pictures,
)
from appliance.model.inference.resizing import SIZE_DIVISOR
from appliance.model.model_file import LoadedModel

ONNX_OPSET = 18
METADATA_KEY = "appliance"
"""Of the JSON document in an ONNX file's metadata; in a TorchScript file it is the extra file of that name."""

_TORCHSCRIPT_EXTRA = f"{METADATA_KEY}.json"
_ONNX_BEGINS = b"\x08"  # the tag of the version of the format
_MAX_METADATA_BYTES = 2**20
_OUTPUTS = ("boxes", "scores", "class_ids", "counts")
_EXAMPLE_SHAPE = (2, 3, 200, 300)


@dataclass(frozen=True)
class Exported:
    """A written file.

    Attributes:
        path: Where it is.
        format: "onnx" or "torchscript".
        size_bytes: Of the file.
        parity: What running it on pictures gave.
    """

    path: str
    format: str
    size_bytes: int
    parity: Parity


def export_onnx(
    model_uri: str, out: str, *, pictures: Sequence[DecodedImage] | None = None
) -> Exported:
    """Writes a model file as ONNX, for ONNX Runtime and others that know opset 18.

    Args:
        model_uri: The model file.
        out: The file to write.
        pictures: To compare on, instead of ten drawn ones: for a model that finds nothing on those.

    Raises:
        StorageError, ModelFileError: The model cannot be read, or `out` not written.
        ModelFileError: The exported graph does not give the detector's answers; nothing is written.
        ConfigError: The packages of the extra `export` are not installed.
    """
    try:
        import onnx
        import onnxruntime
    except ModuleNotFoundError as error:
        raise ConfigError(
            "Export to ONNX needs packages that are not installed",
            got=f"no {error.name}",
            hint="Install them: pip install onnx onnxruntime",
        ) from None
    storage.check_writable(out)
    loaded = model_file.load(model_uri)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # It is told that a newer exporter exists; and that tracing fixes Python values, which is meant.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            DetectorGraph(loaded.network, loaded.spec).eval(),
            (_example(),),
            buffer,  # type: ignore[arg-type] # the older exporter takes it
            dynamo=False,
            opset_version=ONNX_OPSET,
            input_names=["images"],
            output_names=list(_OUTPUTS),
            dynamic_axes={
                "images": {0: "batch", 2: "height", 3: "width"},
                **{name: {0: "batch"} for name in _OUTPUTS},
            },
        )
    model = onnx.load_from_string(buffer.getvalue())
    document = _document(loaded, "onnx")
    model.metadata_props.add(key=METADATA_KEY, value=json.dumps(document))
    model.doc_string = f"{loaded.name} {loaded.version}: {document['about']}"
    onnx.checker.check_model(model)
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(images: np.ndarray) -> Outputs:
        boxes, scores, class_ids, counts = session.run(list(_OUTPUTS), {"images": images})
        return boxes, scores, class_ids, counts

    return _write_if_equal(data, run, loaded, out, "onnx", pictures)


def export_torchscript(
    model_uri: str, out: str, *, pictures: Sequence[DecodedImage] | None = None
) -> Exported:
    """Writes a model file as TorchScript, for `torch.jit.load` beside torchvision, and for C++.

    Args:
        model_uri: The model file.
        out: The file to write.
        pictures: As for `export_onnx`.

    Raises:
        StorageError, ModelFileError: As for `export_onnx`.
    """
    storage.check_writable(out)
    loaded = model_file.load(model_uri)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # TorchScript is deprecated in favour of torch.export, which does not take torchvision's NMS with
        # sizes left open.
        warnings.simplefilter("ignore")
        traced = torch.jit.trace(
            DetectorGraph(loaded.network, loaded.spec).eval(), (_example(),), check_trace=False
        )
        extra = {_TORCHSCRIPT_EXTRA: json.dumps(_document(loaded, "torchscript"))}
        torch.jit.save(traced, buffer, _extra_files=extra)
        data = buffer.getvalue()
        module = torch.jit.load(io.BytesIO(data), map_location="cpu")

    def run(images: np.ndarray) -> Outputs:
        with torch.inference_mode():
            boxes, scores, class_ids, counts = module(torch.from_numpy(images))
        return boxes.numpy(), scores.numpy(), class_ids.numpy(), counts.numpy()

    return _write_if_equal(data, run, loaded, out, "torchscript", pictures)


def is_exported(uri: str) -> bool:
    """Whether the file is one that these functions have written, whatever model it is of.

    Raises:
        StorageError: It cannot be read.
    """
    data = storage.read_bytes(uri)
    if zipfile.is_zipfile(io.BytesIO(data)):
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return any(name.endswith(f"/{_TORCHSCRIPT_EXTRA}") for name in archive.namelist())
    # The metadata is the last field of an ONNX file: key, then value, each behind its tag and length.
    key = METADATA_KEY.encode()
    entry = b"\x0a" + bytes([len(key)]) + key + b"\x12"
    return data[:1] == _ONNX_BEGINS and entry in data[-_MAX_METADATA_BYTES:]


def _example() -> torch.Tensor:
    """Any pictures will do: sizes and number stay open, and nothing may depend on what is on them."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, _EXAMPLE_SHAPE, dtype=torch.uint8, generator=generator)


def _document(loaded: LoadedModel, format_name: str) -> dict[str, Any]:
    spec = loaded.spec
    per_picture = min(spec.max_detections, spec.proposals_post_nms * len(spec.labels))
    return {
        "about": "object detector; pictures in, boxes of the same pictures out",
        "model": {"name": loaded.name, "version": loaded.version, "spec": spec.to_json()},
        "labels": {str(index): name for index, name in enumerate(spec.labels, start=1)},
        "input": {
            "images": "uint8 [batch, 3, height, width], RGB, 0..255, turned upright; resizing and "
            "normalising are part of the graph"
        },
        "outputs": {
            "boxes": f"float32 [batch, {per_picture}, 4], x1 y1 x2 y2 in pixels of the input",
            "scores": f"float32 [batch, {per_picture}], descending, 0..1",
            "class_ids": f"int64 [batch, {per_picture}], from 1, see labels",
            "counts": "int64 [batch]: how many of these are detections; the rest is zeros",
        },
        "limits": [
            "batch, height and width are free, from 1 up; the pictures of one batch have one size",
            f"inside, the shorter side becomes {spec.shorter_side_px} pixels",
            f"unless the longer would exceed {spec.longer_side_px}; padded to multiples of {SIZE_DIVISOR}",
            f"fixed: score threshold {spec.score_threshold}, NMS IoU {spec.nms_iou_threshold}",
            "float32; checked on the CPU",
            {
                "onnx": f"opset {ONNX_OPSET}",
                "torchscript": "needs torchvision's operators (import torchvision, or link it)",
            }[format_name],
        ],
        "versions": {"torch": torch.__version__, "torchvision": torchvision.__version__},
    }


def _write_if_equal(
    data: bytes,
    run: Runner,
    loaded: LoadedModel,
    out: str,
    format_name: str,
    pictures: Sequence[DecodedImage] | None,
) -> Exported:
    parity = compare(run, loaded, drawn_pictures() if pictures is None else pictures)
    if not parity.is_good:
        raise ModelFileError(
            f"The exported {format_name} gives other answers than the detector; nothing was written",
            where=out,
            got=f"{parity.unmatched} detections without a counterpart and {parity.rounded} that rounding "
            f"decides, where the model gives {parity.detections} on {parity.pictures} pictures",
            expected=f"for each one within {MAX_BOX_DIFFERENCE_PX} px and {MAX_SCORE_DIFFERENCE} of score",
            hint="Training that diverged can be the cause, or a defect here: report it with the model file",
        )
    if not parity.detections:
        raise ModelFileError(
            "The export cannot be checked: the model finds nothing on these pictures",
            where=out,
            got=f"no detection on {parity.pictures} pictures",
            hint="Give pictures on which it finds something: --pictures FOLDER",
        )
    storage.write_bytes(out, data)
    return Exported(out, format_name, len(data), parity)

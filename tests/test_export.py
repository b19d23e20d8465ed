"""Exported files, run by what others would run them with, against the detector itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from factories import jpeg_bytes

from appliance.cli import main
from appliance.errors import ConfigError, ModelFileError
from appliance.images.decoding import DecodedImage
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.export import parity
from appliance.model.export.files import export_onnx, export_torchscript
from appliance.model.export.graph import DetectorGraph
from appliance.model.faster_rcnn import build_network
from appliance.model.predictor import Predictor
from appliance.model.spec import TORCHVISION_ARCHITECTURES, ModelSpec

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def files(tiny_model_path, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    export_onnx(str(tiny_model_path), str(folder / "m.onnx"))
    export_torchscript(str(tiny_model_path), str(folder / "m.pt"))
    return {"onnx": folder / "m.onnx", "torchscript": folder / "m.pt"}


def runner(path: Path):
    """What gives the outputs of a file, as a user would make it."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(str(path))
        return lambda images: session.run(None, {"images": images})
    module = torch.jit.load(str(path))
    return lambda images: [output.numpy() for output in module(torch.from_numpy(images))]


def noise(batch: int, height: int, width: int) -> np.ndarray:
    coarse = torch.rand(batch, 3, 6, 7, generator=torch.Generator().manual_seed(height))
    values = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (values * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 64, 64), (5, 90, 300), (1, 31, 700), (3, 640, 33)], ids=str
)
def test_any_batch_of_any_size_gets_the_detectors_answers(
    files, tiny_model_path, kind: str, shape: tuple[int, int, int]
) -> None:
    images = noise(*shape)
    predictor = Predictor.load(str(tiny_model_path), device="cpu")
    boxes, scores, class_ids, counts = runner(files[kind])(images)
    assert boxes.shape == (shape[0], 60, 4)
    for index, image in enumerate(images):
        expected = predictor.predict([DecodedImage(torch.from_numpy(image), shape[1:])])[0]
        found = parity._detections(
            (boxes[[index]], scores[[index]], class_ids[[index]], counts[[index]])
        )[0]
        _, missed = parity._match(expected, found, predictor)
        # The tiny model's scores are all but equal: which of two boxes is kept may depend on rounding.
        assert missed <= 6
        assert len(expected) > 10
        assert not boxes[index, counts[index] :].any()
        assert not scores[index, counts[index] :].any()


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
def test_nothing_found_is_a_normal_answer(tiny_model_path, tmp_path, kind: str) -> None:
    loaded = model_file.load(str(tiny_model_path))
    graph = DetectorGraph(loaded.network, loaded.spec.with_settings(score_threshold=0.999))
    with torch.inference_mode():
        boxes, scores, _, counts = graph(torch.from_numpy(noise(2, 50, 60)))
    assert counts.tolist() == [0, 0]
    assert not boxes.any()
    assert not scores.any()


@pytest.mark.parametrize("architecture", TORCHVISION_ARCHITECTURES[2:])
def test_the_graph_of_torchvisions_mobilenets_equals_the_predictor(architecture: str) -> None:
    torch.manual_seed(3)
    spec = ModelSpec.of(
        LabelMap(("a", "b")),
        architecture,
        shorter_side_px=128,
        longer_side_px=200,
        proposals_pre_nms=200,
        proposals_post_nms=50,
    ).with_settings(score_threshold=0.01)
    network = build_network(spec)
    # Statistics and scores of a sane size: where scores are saturated, rounding alone decides.
    for module in network.backbone.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    head = network.rpn.head
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        network.backbone.train()(torch.rand(2, 3, 128, 192, generator=generator) * 4 - 2)
        head.cls_logits.weight *= 20
        network.roi_heads.box_predictor.cls_score.weight *= 3
    predictor = Predictor(network, spec, device="cpu")
    graph = DetectorGraph(network, spec)

    def run(images: np.ndarray):
        with torch.inference_mode():
            return tuple(output.numpy() for output in graph(torch.from_numpy(images)))

    found = parity.compare(run, predictor, parity.drawn_pictures()[:3])
    assert found.detections > 0
    assert found.unmatched <= 0.05 * found.detections


def test_the_files_say_what_goes_in_and_comes_out(files, tiny_model_path) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(files["onnx"]).metadata_props}
    extra = {"appliance.json": ""}
    torch.jit.load(str(files["torchscript"]), _extra_files=extra)
    version = model_file.load(str(tiny_model_path)).version
    for text in (properties["appliance"], extra["appliance.json"]):
        document = json.loads(text)
        assert document["labels"] == {"1": "circle", "2": "square"}
        assert document["model"]["version"] == version
        assert ModelSpec.from_json(document["model"]["spec"]).shorter_side_px == 96
        assert document["input"]["images"].startswith("uint8 [batch, 3, height, width], RGB")
        assert document["outputs"]["boxes"].startswith("float32 [batch, 60, 4]")
        assert any("score threshold 0.3" in limit for limit in document["limits"])


def test_an_onnx_file_has_open_sizes(files) -> None:
    session = onnxruntime.InferenceSession(str(files["onnx"]))
    (images,) = session.get_inputs()
    assert (images.name, images.shape, images.type) == (
        "images",
        ["batch", 3, "height", "width"],
        "tensor(uint8)",
    )
    assert [output.name for output in session.get_outputs()] == [
        "boxes",
        "scores",
        "class_ids",
        "counts",
    ]


@pytest.mark.parametrize("export", [export_onnx, export_torchscript])
def test_a_file_that_answers_otherwise_is_not_written(
    tiny_model_path, tmp_path, monkeypatch, export
) -> None:
    """The graph is spoilt on purpose: its boxes are moved by two pixels."""
    right = DetectorGraph.forward

    def wrong(self, images):
        boxes, *rest = right(self, images)
        return (boxes + 2, *rest)

    monkeypatch.setattr(DetectorGraph, "forward", wrong)
    with pytest.raises(ModelFileError, match="gives other answers than the detector"):
        export(str(tiny_model_path), str(tmp_path / "m.out"))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_finds_nothing_cannot_be_checked(tiny_model_path, tmp_path) -> None:
    loaded = model_file.load(str(tiny_model_path))
    spec = loaded.spec.with_settings(score_threshold=0.999)
    model_file.save(str(tmp_path / "blind.safetensors"), loaded.network, spec)
    with pytest.raises(ModelFileError, match="finds nothing on these pictures.*--pictures"):
        export_torchscript(str(tmp_path / "blind.safetensors"), str(tmp_path / "blind.pt"))
    assert not (tmp_path / "blind.pt").exists()


def test_without_the_extra_there_is_one_sentence(tiny_model_path, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"pip install 'detection-appliance\[export\]'"):
        export_onnx(str(tiny_model_path), str(tmp_path / "m.onnx"))


def command(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", main.__name__, "models", "export", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )


def test_the_command_checks_on_pictures_of_the_user_and_says_what_it_found(
    tiny_model_path, tmp_path
) -> None:
    for index in range(2):
        (tmp_path / f"{index}.jpg").write_bytes(jpeg_bytes())
    out = tmp_path / "m.pt"
    done = command(
        str(tiny_model_path),
        *("--format", "torchscript", "--out", str(out), "--pictures", str(tmp_path), "--json"),
    )
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout.splitlines()[-1])
    assert document["path"] == str(out)
    assert document["parity"]["pictures"] == 2
    assert document["parity"]["detections"] > 0
    assert document["size_bytes"] == out.stat().st_size


def test_the_command_writes_beside_the_model_unless_told_otherwise(
    tiny_model_path, tmp_path
) -> None:
    model = tmp_path / "copy.safetensors"
    model.write_bytes(tiny_model_path.read_bytes())
    done = command(str(model))
    assert done.returncode == 0, done.stderr
    assert "detections compared" in done.stdout
    assert (tmp_path / "copy.onnx").exists()
    assert done.stderr == ""
    (tmp_path / "empty").mkdir()
    none = command(str(model), "--pictures", str(tmp_path / "empty"))
    assert none.returncode == 1
    assert none.stderr.startswith("error: No pictures there")
    assert torchvision.__version__ in (onnx.load(tmp_path / "copy.onnx").metadata_props[0].value)

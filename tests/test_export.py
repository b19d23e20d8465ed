"""Exported files, run by what others would run them with, against the detector itself."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import torchvision
from factories import jpeg_bytes, network_with_something_to_say, small_spec
from registry_cases import registered
from tiny_fixtures import EVERY_ARCHITECTURE

from appliance.cli import main
from appliance.errors import ConfigError, ModelFileError
from appliance.images.decoding import DecodedImage
from appliance.model import model_file
from appliance.model.export import parity
from appliance.model.export.files import export_onnx, export_torchscript, is_exported
from appliance.model.export.graph import DetectorGraph
from appliance.model.predictor import Predictor
from appliance.model.spec import COMPACT, ModelSpec

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def model_path(tmp_path_factory) -> Path:
    """A model whose answers single precision settles, other than those of the tiny one."""
    spec = small_spec(COMPACT, proposals_post_nms=30, score_threshold=0.3)
    path = tmp_path_factory.mktemp("model") / "small.safetensors"
    model_file.save(str(path), network_with_something_to_say(spec), spec)
    return path


@pytest.fixture(scope="module")
def predictor(model_path) -> Predictor:
    """The detector itself."""
    return Predictor.load(str(model_path), device="cpu")


@pytest.fixture(scope="module")
def files(model_path, tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    pictures = parity.drawn_pictures()[2:5]
    export_onnx(str(model_path), str(folder / "m.onnx"), pictures=pictures)
    export_torchscript(str(model_path), str(folder / "m.pt"), pictures=pictures)
    return {"onnx": folder / "m.onnx", "torchscript": folder / "m.pt"}


@pytest.fixture(scope="module")
def runners(files) -> dict[str, Callable[[np.ndarray], list[np.ndarray]]]:
    """What gives the outputs of each file, as a user would make it."""
    session = onnxruntime.InferenceSession(str(files["onnx"]))
    module = torch.jit.load(str(files["torchscript"]))
    return {
        "onnx": lambda images: session.run(None, {"images": images}),
        "torchscript": lambda images: [
            output.numpy() for output in module(torch.from_numpy(images))
        ],
    }


def noise(batch: int, height: int, width: int) -> np.ndarray:
    coarse = torch.rand(batch, 3, 6, 7, generator=torch.Generator().manual_seed(height))
    values = torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")
    return (values * 255).round().to(torch.uint8).numpy()


@pytest.mark.parametrize("kind", ["onnx", "torchscript"])
@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (2, 64, 64), (5, 90, 300), (1, 31, 700), (3, 640, 33)], ids=str
)
def test_any_batch_of_any_size_gets_the_detectors_answers(
    runners, predictor, kind: str, shape: tuple[int, int, int]
) -> None:
    images = noise(*shape)
    boxes, scores, class_ids, counts = runners[kind](images)
    assert boxes.shape == (shape[0], 90, 4)
    for index, image in enumerate(images):
        expected = predictor.predict([DecodedImage(torch.from_numpy(image), shape[1:])])[0]
        found = parity._detections(
            (boxes[[index]], scores[[index]], class_ids[[index]], counts[[index]])
        )[0]
        pairs = parity._match(expected, found, predictor)
        assert (np.max(pairs.differences, axis=0) < (0.05, 1e-4)).all()
        assert pairs.only_expected == pairs.only_found == []
        assert len(expected) > 3
        assert not boxes[index, counts[index] :].any()
        assert not scores[index, counts[index] :].any()


def test_proposals_that_are_all_but_certain_are_ranked_as_the_detector_does(
    model_path, tmp_path
) -> None:
    """Their probabilities differ in the last bit, and there in another way with each runtime."""
    model = model_file.load(str(model_path))
    model.network.rpn.head.cls_logits.bias.data += 15
    path = str(tmp_path / "certain.safetensors")
    model_file.save(path, model.network, model.spec)
    found = export_onnx(path, str(tmp_path / "m.onnx"), pictures=parity.drawn_pictures()[2:5])
    assert found.parity.detections > 20
    assert found.parity.unmatched == found.parity.rounded == 0


def test_nothing_found_is_a_normal_answer(model_path) -> None:
    loaded = model_file.load(str(model_path))
    graph = DetectorGraph(loaded.network, loaded.spec.with_settings(score_threshold=0.999))
    with torch.inference_mode():
        boxes, scores, _, counts = graph(torch.from_numpy(noise(2, 50, 60)))
    assert counts.tolist() == [0, 0]
    assert not boxes.any()
    assert not scores.any()


@pytest.mark.parametrize("architecture", EVERY_ARCHITECTURE)
def test_the_traced_graph_is_torchvisions_own_in_double_precision(architecture: str) -> None:
    """Against plain torchvision, which resizes, proposes and selects with code of its own.

    Random networks blow rounding up, so single precision would prove little.
    """
    spec = small_spec(architecture, proposals_pre_nms=60, proposals_post_nms=15)
    network = network_with_something_to_say(spec).double().eval()
    graph = DetectorGraph(network, spec).eval()
    example = torch.from_numpy(noise(2, 70, 90))
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("ignore")  # what tracing fixes, and that it is deprecated
        traced = torch.jit.trace(graph, (example,), check_trace=False)
        for height, width in ((150, 260), (301, 111)):
            pixels = torch.from_numpy(noise(1, height, width))
            expected = network([pixels[0].double() / 255])[0]
            boxes, scores, class_ids, counts = traced(pixels)
            count = int(counts)
            assert count == len(expected["scores"]) > 10
            torch.testing.assert_close(scores[0, :count], expected["scores"], rtol=0, atol=1e-8)
            torch.testing.assert_close(boxes[0, :count], expected["boxes"], rtol=0, atol=1e-5)
            assert torch.equal(class_ids[0, :count], expected["labels"])


def test_the_files_say_what_goes_in_and_comes_out(files, model_path) -> None:
    properties = {entry.key: entry.value for entry in onnx.load(files["onnx"]).metadata_props}
    extra = {"appliance.json": ""}
    torch.jit.load(str(files["torchscript"]), _extra_files=extra)
    version = model_file.load(str(model_path)).version
    for text in (properties["appliance"], extra["appliance.json"]):
        document = json.loads(text)
        assert document["labels"] == {"1": "a", "2": "b", "3": "c"}
        assert document["model"]["version"] == version
        assert ModelSpec.from_json(document["model"]["spec"]).shorter_side_px == 128
        assert document["input"]["images"].startswith("uint8 [batch, 3, height, width], RGB")
        assert document["outputs"]["boxes"].startswith("float32 [batch, 90, 4]")
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


def runner_of(predictor: Predictor) -> parity.Runner:
    """A file that answers as this predictor does."""

    def run(images: np.ndarray) -> parity.Outputs:
        size_hw = images.shape[2:]
        pictures = [DecodedImage(torch.from_numpy(image), size_hw) for image in images]
        answers = [(a.boxes_xyxy, a.scores, a.class_ids) for a in predictor.predict(pictures)]
        counts = np.array([len(scores) for _, scores, _ in answers])
        boxes, scores, class_ids = (np.stack(values) for values in zip(*answers, strict=True))
        return boxes, scores, class_ids, counts

    return run


def test_what_rounding_decides_does_not_count(model_path, monkeypatch) -> None:
    monkeypatch.setattr(parity, "SHAKES", 2)
    model, pictures = model_file.load(str(model_path)), parity.drawn_pictures()[4:6]
    unlike = parity.Parity(10, 300, 0, 7, 0.1, 1e-6)
    assert not unlike.is_good  # too many for a file that proves anything
    assert replace(unlike, rounded=6).is_good
    assert not replace(unlike, rounded=0, unmatched=1).is_good
    few = parity.Parity(1, 10, 0, 2, 0.1, 1e-6)
    assert few.is_good  # one pair is always allowed
    # So much noise that some answers differ; with the seed that made them they are all found again.
    monkeypatch.setattr(parity, "WEIGHT_NOISE", 1e-2)
    last = 1
    otherwise = Predictor(parity._shaken(model.network, last), model.spec, device="cpu")
    found = parity.compare(runner_of(otherwise), model, pictures)
    assert found.rounded > 0
    assert found.unmatched == 0
    # Next to none, and the same answers are wrong ones.
    monkeypatch.setattr(parity, "WEIGHT_NOISE", 1e-12)
    found = parity.compare(runner_of(otherwise), model, pictures)
    assert found.rounded == 0
    assert not found.is_good


@pytest.mark.parametrize("export", [export_onnx, export_torchscript])
def test_a_file_that_answers_otherwise_is_not_written(
    model_path, tmp_path, monkeypatch, export
) -> None:
    """The graph is spoilt on purpose: its boxes are moved by two pixels."""
    right = DetectorGraph.forward

    def wrong(self, images):
        boxes, *rest = right(self, images)
        return (boxes + 2, *rest)

    monkeypatch.setattr(DetectorGraph, "forward", wrong)
    monkeypatch.setattr(parity, "SHAKES", 1)  # for speed: none of them moves a box by two pixels
    with pytest.raises(
        ModelFileError, match="gives other answers than the detector.* on 2 pictures"
    ):
        export(str(model_path), str(tmp_path / "m.out"), pictures=parity.drawn_pictures()[4:6])
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_finds_nothing_cannot_be_checked(model_path, tmp_path) -> None:
    loaded = model_file.load(str(model_path))
    spec = loaded.spec.with_settings(score_threshold=0.999)
    model_file.save(str(tmp_path / "blind.safetensors"), loaded.network, spec)
    with pytest.raises(ModelFileError, match="finds nothing on these pictures.*--pictures"):
        export_torchscript(
            str(tmp_path / "blind.safetensors"),
            str(tmp_path / "blind.pt"),
            pictures=parity.drawn_pictures()[4:6],
        )
    assert not (tmp_path / "blind.pt").exists()


def test_without_the_extra_there_is_one_sentence(model_path, tmp_path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match="pip install onnx onnxruntime"):
        export_onnx(str(model_path), str(tmp_path / "m.onnx"))


def test_the_command_checks_on_pictures_of_the_user_and_says_what_it_found(
    run_appliance, model_path, tmp_path, capsys, monkeypatch
) -> None:
    for index in range(2):
        (tmp_path / f"{index}.jpg").write_bytes(jpeg_bytes())
    monkeypatch.chdir(tmp_path)
    models = registered(tmp_path / "models", model_path).root_uri
    export = ("models", "export", "shapes", "--format", "torchscript", "--registry", models)
    out = Path("shapes-1.pt")
    assert run_appliance(*export, "--pictures", tmp_path, "--json") == 0
    document = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert document["path"] == str(out)
    assert document["parity"]["pictures"] == 2
    assert document["parity"]["detections"] > 0
    assert document["size_bytes"] == out.stat().st_size
    (tmp_path / "empty").mkdir()
    out.unlink()
    assert run_appliance(*export, "--pictures", tmp_path / "empty") == 1
    assert capsys.readouterr().err.startswith("error: No pictures there")


def test_the_command_loses_nothing_that_is_there(
    run_appliance, model_path, files, tmp_path, capsys
) -> None:
    """Neither the model nor anything else; an earlier export only when that is wanted."""
    model, notes = tmp_path / "m.safetensors", tmp_path / "notes.onnx"
    model.write_bytes(model_path.read_bytes())
    notes.write_text("my notes")
    for out in (model, notes):
        before = out.read_bytes()
        assert run_appliance("models", "export", model, "--out", out, "--overwrite") == 1
        assert "There is a file already, and it is no detector graph of" in capsys.readouterr().err
        assert out.read_bytes() == before
    for kind, path in files.items():
        export = ("models", "export", model, "--format", kind, "--out", path)
        assert run_appliance(*export) == 1
        assert "There is a detector graph already" in capsys.readouterr().err
        assert is_exported(str(path))
    earlier = tmp_path / "m.pt"
    earlier.write_bytes(files["torchscript"].read_bytes())
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes())
    again = ("--format", "torchscript", "--overwrite", "--pictures", tmp_path)
    assert run_appliance("models", "export", model, *again) == 0
    assert run_appliance("models", "export", model, "--out", tmp_path) == 1
    assert "got a folder" in capsys.readouterr().err


def test_the_command_writes_beside_the_model_unless_told_otherwise(model_path, tmp_path) -> None:
    """In a process of its own: torch warns there of what it has not warned of here before."""
    model = tmp_path / "copy.safetensors"
    model.write_bytes(model_path.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", main.__name__, "models", "export", str(model)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "detections compared" in done.stdout
    assert done.stderr == ""
    written = onnx.load(tmp_path / "copy.onnx")
    assert torchvision.__version__ in written.metadata_props[0].value

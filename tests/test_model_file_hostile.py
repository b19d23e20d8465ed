"""A model file from somebody one should not trust: it loads, or is refused in one sentence; nothing else."""

from __future__ import annotations

import ast
import hashlib
import json
import pickle
import re
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.errors import ModelFileError
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.faster_rcnn import build_hollow_network
from appliance.model.spec import ModelSpec
from benchmarks.model_speed.memory import peak_memory

ROOT = Path(__file__).resolve().parents[1]

# As format 1 was first written. A later version of the library must read it with exactly this meaning.
FORMAT_1_DOCUMENT = """
{"format_version": 1, "name": "first", "parent": "none", "dataset_digest": "d1", "metrics": {"map_50": 0.5},
 "training": {"steps": 3}, "versions": {"torch": "2.11.0", "torchvision": "0.26.0"},
 "spec": {"labels": ["circle", "square"], "architecture": "fasterrcnn_compact", "backbone": "mobilenet_v3_small",
          "shorter_side_px": 96, "longer_side_px": 160, "fpn_channels": 32, "box_head_channels": 32,
          "anchor_sizes_px": [16, 32, 64], "proposals_pre_nms": 100, "proposals_post_nms": 30,
          "score_threshold": 0.3, "nms_iou_threshold": 0.5, "max_detections": 300}}
"""
FORMAT_1_TENSORS = "01b3d0c178b3b5dd"

JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.sampled_from(["", "x", "resnet50", "fasterrcnn_resnet50_fpn", "\x1b[31m", "\ud800"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
THOROUGH = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module")
def tensors() -> dict[str, torch.Tensor]:
    """Tensors that fit the document of format 1."""
    spec = ModelSpec.from_json(json.loads(FORMAT_1_DOCUMENT)["spec"])
    generator = torch.Generator().manual_seed(2)
    return {
        name: torch.rand(hollow.shape, generator=generator).to(hollow.dtype)
        for name, hollow in build_hollow_network(spec).state_dict().items()
    }


@pytest.fixture(scope="module")
def good(tensors) -> bytes:
    return safetensors.torch.save(tensors, {"appliance": FORMAT_1_DOCUMENT})


def split(data: bytes) -> tuple[dict, bytes]:
    """The header and the values of a safetensors file."""
    end = 8 + int.from_bytes(data[:8], "little")
    return json.loads(data[8:end]), data[end:]


def join(header: dict, values: bytes) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + values


def load_or_refuse(path: Path, data: bytes) -> str | None:
    """None when it loads; otherwise the sentence, which names the file and has no line break."""
    path.write_bytes(data)
    try:
        model_file.load(str(path))
    except ModelFileError as error:
        sentence = str(error)
    else:
        return None
    assert path.name in sentence
    assert "\n" not in sentence
    return sentence


def refusal(path: Path, data: bytes) -> str:
    sentence = load_or_refuse(path, data)
    assert sentence is not None
    return sentence


def with_document(good: bytes, document: object) -> bytes:
    header, values = split(good)
    header["__metadata__"]["appliance"] = (
        document if isinstance(document, str) else json.dumps(document)
    )
    return join(header, values)


def test_a_file_of_format_1_keeps_its_meaning(good, tensors, tmp_path) -> None:
    path = tmp_path / "first.safetensors"
    path.write_bytes(good)
    loaded = model_file.load(str(path))
    written = json.loads(FORMAT_1_DOCUMENT)
    spec = loaded.spec.to_json()
    assert {key: spec[key] for key in written["spec"]} == {
        **written["spec"],
        "labels": ("circle", "square"),
        "anchor_sizes_px": (16, 32, 64),
    }
    info = loaded.info
    assert (loaded.name, info.parent, info.dataset_digest) == ("first", "none", "d1")
    assert (info.metrics, info.training) == ({"map_50": 0.5}, {"steps": 3})
    shapes = "\n".join(f"{name} {tuple(tensors[name].shape)}" for name in sorted(tensors))
    assert hashlib.sha256(shapes.encode()).hexdigest()[:16] == FORMAT_1_TENSORS
    for name, value in loaded.network.state_dict().items():
        torch.testing.assert_close(value, tensors[name], rtol=0, atol=0)


@THOROUGH
@given(data=st.data())
def test_a_file_cut_short_anywhere_is_refused(good, tmp_path, data) -> None:
    header_end = 8 + int.from_bytes(good[:8], "little")
    length = data.draw(st.integers(0, header_end + 100) | st.integers(0, len(good) - 1))
    assert "Not a model file" in refusal(tmp_path / "cut.safetensors", good[:length])


@THOROUGH
@given(data=st.data())
def test_flipped_bytes_of_the_header_do_no_harm(good, tmp_path, data) -> None:
    header_end = 8 + int.from_bytes(good[:8], "little")
    changed = bytearray(good)
    for place in data.draw(st.lists(st.integers(0, header_end - 1), min_size=1, max_size=4)):
        changed[place] ^= data.draw(st.integers(1, 255))
    load_or_refuse(tmp_path / "flipped.safetensors", bytes(changed))


@THOROUGH
@given(data=st.data())
def test_any_value_at_any_place_of_the_document_does_no_harm(good, tmp_path, data) -> None:
    document = json.loads(FORMAT_1_DOCUMENT)
    part = data.draw(st.sampled_from([document, document["spec"]]))
    part[data.draw(st.sampled_from(sorted(part)))] = data.draw(JSON_VALUES)
    load_or_refuse(tmp_path / "odd.safetensors", with_document(good, document))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("fpn_channels", 10**9),
        ("fpn_channels", 2**31 - 1),
        ("fpn_channels", 10**30),
        ("box_head_channels", 10**9),
        ("fpn_channels", True),
        ("fpn_channels", 32.0),
        ("shorter_side_px", float("nan")),
        ("score_threshold", float("inf")),
        ("score_threshold", "0.3"),
        ("anchor_sizes_px", [[16], [32], [64]]),
        ("anchor_sizes_px", [16, 32]),
        ("labels", "ab"),
        ("labels", [["a"], ["b"]]),
        ("labels", ["a", "a"]),
        ("labels", ["a", "b", "c"]),
        ("architecture", "fasterrcnn_resnet50_fpn"),
    ],
)
def test_a_spec_that_cannot_be_is_refused_before_it_costs_anything(
    good, tmp_path, setting: str, value: object
) -> None:
    document = json.loads(FORMAT_1_DOCUMENT)
    document["spec"][setting] = value
    with peak_memory(torch.device("cpu")) as measured:
        assert "damaged" in refusal(tmp_path / "x.safetensors", with_document(good, document))
    assert measured.growth_mib < 200  # 10**9 channels would be terabytes


def test_very_many_labels_do_not_hold_anybody_up(good, tmp_path) -> None:
    document = json.loads(FORMAT_1_DOCUMENT)
    document["spec"]["labels"] = [f"label {index}" for index in range(200_000)]
    # A check of each name against all others would take minutes: see the time limit of a test.
    assert "of another shape" in refusal(
        tmp_path / "many.safetensors", with_document(good, document)
    )


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ("not JSON", "Not a model file of the appliance"),
        ("[" * 100_000, "Not a model file of the appliance"),
        ("[1, 2]", "Not a model file of the appliance"),
        ('{"format_version": Infinity}', "Not a model file of the appliance"),
        ('{"format_version": true}', "Not a model file of the appliance"),
        ('{"format_version": 0}', "Not a model file of the appliance"),
        ('{"format_version": 1}', "damaged.*no spec"),
        ('{"format_version": 1, "spec": []}', "damaged.*no spec"),
    ],
)
def test_a_document_that_is_none_is_refused(good, tmp_path, document: str, expected: str) -> None:
    assert re.search(expected, refusal(tmp_path / "d.safetensors", with_document(good, document)))


def _huge_header(good: bytes) -> bytes:
    return (2**62).to_bytes(8, "little") + good[8:]


def _overlapping(good: bytes) -> bytes:
    header, values = split(good)
    first, second = [name for name in header if name != "__metadata__"][:2]
    header[second]["data_offsets"] = header[first]["data_offsets"]
    return join(header, values)


def _outside(good: bytes) -> bytes:
    header, values = split(good)
    name = next(name for name in header if name != "__metadata__")
    header[name]["data_offsets"] = [10**15, 10**15 + 4]
    return join(header, values)


def _metadata_no_text(good: bytes) -> bytes:
    header, values = split(good)
    header["__metadata__"]["appliance"] = {"format_version": 1}
    return join(header, values)


def _unknown_dtype(good: bytes) -> bytes:
    header, values = split(good)
    name = next(name for name in header if name != "__metadata__")
    header[name]["dtype"] = "PICKLE"
    return join(header, values)


@pytest.mark.parametrize(
    "change", [_huge_header, _overlapping, _outside, _metadata_no_text, _unknown_dtype]
)
def test_a_container_that_lies_is_refused(good, tmp_path, change) -> None:
    assert "Not a model file" in refusal(tmp_path / "lies.safetensors", change(good))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda t: t.pop(min(t)), "1 missing such as backbone.body"),
        (lambda t: t.update(surprise=torch.zeros(1)), "1 unknown such as surprise"),
        (lambda t: t.update({min(t): torch.zeros(1)}), "1 of another shape or type"),
        (lambda t: t.update({min(t): t[min(t)].half()}), "1 of another shape or type"),
        (lambda t: t.update({min(t): t[min(t)].double()}), "1 of another shape or type"),
        (lambda t: t.update({min(t): t[min(t)] * float("nan")}), "not all finite"),
        (lambda t: t.clear(), "266 missing"),
    ],
)
def test_tensors_that_do_not_fit_are_counted_and_named(
    tensors, tmp_path, change, expected: str
) -> None:
    changed = dict(tensors)
    change(changed)
    data = safetensors.torch.save(changed, {"appliance": FORMAT_1_DOCUMENT})
    assert expected in refusal(tmp_path / "tensors.safetensors", data)


@pytest.mark.parametrize(
    ("key", "value"),
    [("training", [1]), ("metrics", "high"), ("name", 7), ("parent", {}), ("dataset_digest", 1)],
)
def test_facts_of_another_type_are_refused(good, tmp_path, key: str, value: object) -> None:
    document = {**json.loads(FORMAT_1_DOCUMENT), key: value}
    sentence = refusal(tmp_path / "facts.safetensors", with_document(good, document))
    assert f"{key} has the wrong type" in sentence


def test_a_name_cannot_steer_the_terminal(good, tmp_path) -> None:
    path = tmp_path / "name.safetensors"
    document = {**json.loads(FORMAT_1_DOCUMENT), "name": "a\x1b[31mb\n"}
    path.write_bytes(with_document(good, document))
    assert model_file.load(str(path)).name == "a?[31mb?"


def test_a_pickle_is_never_run(tmp_path) -> None:
    class Bomb:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "exploded",))

    path = tmp_path / "pickle.safetensors"
    for data in (pickle.dumps(Bomb()), b"\x80\x02" + b"x" * 100):
        assert "Not a model file" in refusal(path, data)
    torch.save({"a": Bomb()}, path)
    assert "Not a model file" in refusal(path, path.read_bytes())
    assert not (tmp_path / "exploded").exists()


def test_nothing_in_the_library_unpickles() -> None:
    """Torch and its hub may read a pickle only where `weights_only=True` stands in the same call."""
    names = r"(.*\.)?(get_state_dict|load_state_dict_from_url)|(torch|pickle|cloudpickle|joblib)\.loads?"
    readers = [
        (str(path.relative_to(ROOT)), ast.unparse(call))
        for package in ("appliance", "jobs", "serve_app", "benchmarks")
        for path in (ROOT / package).rglob("*.py")
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call) and re.fullmatch(names, ast.unparse(call.func))
    ]
    # No file: what the driver and its own workers hand each other.
    readers = [entry for entry in readers if entry[0] != "appliance/on_ray/part_pool.py"]
    assert readers
    assert [entry for entry in readers if "weights_only=True" not in entry[1]] == []


def test_loading_takes_the_file_and_one_copy(tmp_path) -> None:
    path = tmp_path / "large.safetensors"
    spec = ModelSpec.of(LabelMap(("a",)), "fasterrcnn_resnet50_fpn")
    network = build_hollow_network(spec).to_empty(device="cpu")
    for tensor in network.state_dict().values():
        tensor.zero_()
    model_file.save(str(path), network, spec)
    del network
    with peak_memory(torch.device("cpu")) as measured:
        model_file.load(str(path))
    assert 1.5 < measured.growth_mib / (path.stat().st_size / 2**20) < 2.2

"""The core runs with torch, torchvision, numpy, pillow and safetensors, and what these need, alone."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from factories import jpeg_bytes

ROOT = Path(__file__).resolve().parents[1]
FIVE = ("torch", "torchvision", "numpy", "pillow", "safetensors")
PROGRAM = """
import importlib.util, json, sys
from pathlib import Path

sys.path[:0] = sys.argv[1:3]
import torch, torchvision
from appliance import FasterRCNN, ImageScorer
from appliance.images.decoding import decode_image
from appliance.model.predictor import Predictor

model, picture, cache = sys.argv[3:]
data = Path(picture).read_bytes()
found = Predictor.load(model, device="cpu").predict([decode_image(data, source=picture)])[0]
record = ImageScorer.load(model).score([(picture, data)])[0]
detector = FasterRCNN.load(model, device="cpu")

# torchvision's cache, filled with random weights of the right names and shapes.
architecture = "fasterrcnn_mobilenet_v3_large_320_fpn"
url = torchvision.models.get_model_weights(architecture).DEFAULT.url
network = torchvision.models.get_model(architecture, weights=None, weights_backbone=None)
torch.hub.set_dir(cache)
(Path(cache) / "checkpoints").mkdir()
torch.save(network.state_dict(), Path(cache) / "checkpoints" / url.rpartition("/")[2])
pretrained = FasterRCNN.pretrained("coco", architecture=architecture, score_threshold=0.0, device="cpu")

others = ("ray", "pyarrow", "pydantic", "yaml", "typer", "matplotlib", "defusedxml", "onnx")
print(json.dumps({
    "predicted": len(found),
    "scored": len(record.to_row()["detections"]),
    "detected": len(detector.detect(picture)),
    "of_the_detector": detector.score(picture)["num_detections"],
    "of_a_pretrained_one": pretrained.score([picture])[0]["num_detections"],
    "installed": [name for name in others if importlib.util.find_spec(name)],
}))
"""


@pytest.fixture(scope="module")
def five_packages(tmp_path_factory) -> Path:
    """A folder of installed packages that has nothing but links to the five and what they require."""
    folder = tmp_path_factory.mktemp("packages")
    waiting, names = [*FIVE], set(FIVE)
    while waiting:
        name = waiting.pop()
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue  # of another platform
        tops = {file.parts[0] for file in package.files or ()}
        for top in tops - {"..", "__pycache__", *(path.name for path in folder.iterdir())}:
            (folder / top).symlink_to(package.locate_file(top))
        required = [text for text in package.requires or () if "extra ==" not in text]
        new = {re.split(r"[^\w.-]", text)[0] for text in required} - names
        waiting += new
        names |= new
    return folder


def test_the_core_loads_and_predicts_with_five_packages(
    five_packages, tiny_model_path, tmp_path
) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(jpeg_bytes())
    done = subprocess.run(
        # Without the installed packages of this Python (-S) and whatever the environment adds (-I).
        [sys.executable, "-I", "-S", "-c", PROGRAM]
        + [str(path) for path in (ROOT, five_packages, tiny_model_path, picture, tmp_path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["installed"] == []
    counts = [result[side] for side in ("predicted", "scored", "detected", "of_the_detector")]
    assert counts[0] > 0
    assert counts == counts[:1] * 4
    assert result["of_a_pretrained_one"] > 0

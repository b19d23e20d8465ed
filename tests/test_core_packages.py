"""The core runs with torch, torchvision, numpy, pillow and safetensors, and what these need, alone."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from factories import jpeg_bytes

ROOT = Path(__file__).resolve().parents[1]
# What the five packages themselves require, from their metadata.
NEEDED_BY_TORCH = ("typing_extensions", "sympy", "mpmath", "networkx", "jinja2", "markupsafe")
NEEDED_BY_TORCH += (
    "filelock",
    "fsspec",
    "nvidia",
    "triton",
    "cuda",
    "setuptools",
    "_distutils_hack",
)
PROGRAM = f"""
import json, sys
from pathlib import Path

OURS = {{"appliance", "torch", "torchgen", "torchvision", "numpy", "PIL", "safetensors", *{NEEDED_BY_TORCH}}}
OURS |= set(sys.stdlib_module_names) | set(sys.builtin_module_names)

class Blocker:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in OURS and not top.startswith("_"):
            raise ModuleNotFoundError("blocked: " + name, name=name)

sys.meta_path.insert(0, Blocker())
try:
    import pyarrow
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("the blocker does not block")

from appliance.images.decoding import decode_image
from appliance.model.predictor import Predictor
from appliance.scoring import ImageScorer

model, picture = sys.argv[1:]
data = Path(picture).read_bytes()
found = Predictor.load(model, device="cpu").predict([decode_image(data, source=picture)])[0]
record = ImageScorer.load(model).score([(picture, data)])[0]
print(json.dumps([len(found), len(record.to_row()["detections"])]))
"""


def test_the_core_loads_and_predicts_with_five_packages(tiny_model_path, tmp_path) -> None:
    picture = tmp_path / "a.jpg"
    picture.write_bytes(jpeg_bytes())
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tiny_model_path), str(picture)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    predicted, scored = json.loads(done.stdout)
    assert predicted == scored > 0

"""A tiny model and a few small pictures. Apart from `conftest.py`, so that a bare GPU machine can use them:

python -m pytest --noconftest -p tiny_fixtures tests/test_predictor_cuda.py tests/test_training_cuda.py
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from factories import TINY, spread_outputs

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.samples.scenes import make_sample_dataset
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.faster_rcnn import build_network
from appliance.model.spec import ARCHITECTURES, ModelSpec

# Each part of these two is a part of one of the others, too.
LONG_PROOFS = {"fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn"}
EVERY_ARCHITECTURE = [
    pytest.param(name, marks=[pytest.mark.slow] * (name in LONG_PROOFS)) for name in ARCHITECTURES
]


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real compact model for two labels, with random weights and therefore random detections.

    Fresh weights score every region alike to the seventh digit, and then rounding decides which boxes come
    out, in another way with another number of threads. So its outputs are spread.
    """
    spec = ModelSpec.of(
        LabelMap(("circle", "square")),
        **TINY,
        proposals_pre_nms=100,
        proposals_post_nms=30,
        score_threshold=0.3,
    )
    torch.manual_seed(2)
    path = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    model_file.save(str(path), spread_outputs(build_network(spec)), spec)
    return path


@pytest.fixture(scope="session")
def tiny_scenes_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders `train` and `test` of a few small sample scenes in Pascal VOC layout."""
    folder = tmp_path_factory.mktemp("scenes")
    make_sample_dataset(folder, train=6, test=2, seed=3, size_wh=(160, 120))
    return folder


@pytest.fixture(scope="session")
def tiny_scenes(tiny_scenes_dir: Path) -> ObjectDetectionDataset:
    """The training part of the small sample scenes."""
    return ObjectDetectionDataset.create_from_dir("tiny", tiny_scenes_dir / "train")

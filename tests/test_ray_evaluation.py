"""A dataset scored on the cluster gives what the same model finds in this process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from appliance import FasterRCNN
from appliance.on_ray.evaluation import detect_on_cluster

pytestmark = pytest.mark.usefixtures("ray_cluster")


def test_the_cluster_finds_what_this_process_finds(
    tiny_model_path, tiny_scenes, tmp_path, caplog
) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no picture")
    paths = [image.storage_path for image in tiny_scenes.images]
    found = detect_on_cluster(
        tiny_model_path, [paths[0], str(broken), *paths[1:]], workers=1, progress="off"
    )
    assert found.errors_by_kind == {"unreadable": 1}
    assert "1 unreadable" in caplog.text
    assert len(found.detections.pop(1)) == 0
    detector = FasterRCNN.load(tiny_model_path, device="cpu")
    expected = [detector.detect(path) for path in paths]
    assert sum(map(len, expected)) > 0
    for one, other in zip(found.detections, expected, strict=True):
        assert one.size_hw == other.size_hw
        assert np.array_equal(one.class_ids, other.class_ids)
        np.testing.assert_allclose(one.boxes_xyxy, other.boxes_xyxy, atol=0.5)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-3)


def test_a_named_folder_keeps_the_scores(tiny_model_path, tiny_scenes, tmp_path) -> None:
    folder: Path = tmp_path / "scores"
    paths = [image.storage_path for image in tiny_scenes.images][:2]
    found = detect_on_cluster(tiny_model_path, paths, scratch_uri=folder, workers=1, progress="off")
    assert len(found.detections) == 2
    assert found.images_per_s > 0
    assert (folder / "parts").is_dir()

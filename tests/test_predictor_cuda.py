"""The predictor on a GPU, where there is one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from test_inference import body_of
from test_predictor import assert_near, picture

from appliance.model.inference.convolutions import can_fuse, fold_batch_norms, fuse_convolutions
from appliance.model.inference.suppression import suppress
from appliance.model.predictor import Predictor

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")


def test_recorded_graphs_answer_as_the_cpu_does(tiny_model_path) -> None:  # pragma: no cover
    gpu = Predictor.load(str(tiny_model_path), device="cuda")
    cpu = Predictor.load(str(tiny_model_path), device="cpu")
    pictures = [picture(120, 90, seed) for seed in range(11)] + [picture(90, 150, 3)]
    for _ in range(3):  # recorded, then replayed
        for found, expected in zip(gpu.predict(pictures), cpu.predict(pictures), strict=True):
            # Half precision: the best are the same, the last of many need not be.
            assert abs(len(found) - len(expected)) <= 3
            np.testing.assert_allclose(found.scores[:5], expected.scores[:5], atol=0.02)


def test_company_changes_nothing_on_a_gpu(tiny_model_path) -> None:  # pragma: no cover
    gpu = Predictor.load(str(tiny_model_path), device="cuda")
    pictures = [picture(120, 90, seed) for seed in range(8)]
    for found, image in zip(gpu.predict(pictures), pictures, strict=True):
        assert_near(found, gpu.predict([image])[0])


def test_nothing_waits_for_the_device_before_the_answer(
    tiny_model_path,
) -> None:  # pragma: no cover
    gpu = Predictor.load(str(tiny_model_path), device="cuda")
    gpu.predict([picture(120, 90)])
    inputs = torch.zeros(2, 3, 128, 96, device="cuda")
    sizes_wh = torch.tensor([[90.0, 120.0]] * 2, device="cuda")
    network = gpu._network
    with torch.inference_mode():
        network(inputs, sizes_wh)  # makes its constants
        torch.cuda.set_sync_debug_mode("error")
        try:
            network(inputs, sizes_wh)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_suppression_in_rounds_on_a_gpu() -> None:  # pragma: no cover
    boxes = torch.rand(3, 300, 4, device="cuda") * 50
    boxes[..., 2:] += boxes[..., :2] + 1
    scores = torch.rand(3, 300, device="cuda")
    kept, settled = suppress(boxes, scores, 0.5, greedy=False)
    assert settled
    assert torch.equal(kept, suppress(boxes, scores, 0.5, greedy=True)[0])


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v3_large"])
def test_fused_convolutions_on_a_gpu_change_nothing(name: str) -> None:  # pragma: no cover
    gpu = torch.device("cuda")
    body = body_of(name).to(gpu, memory_format=torch.channels_last)
    fold_batch_norms(body)
    values = torch.randn(2, 3, 96, 128, device=gpu).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = body.double()(values.double())
        body.float()
        assert can_fuse(gpu)
        fuse_convolutions(body, gpu)
        with torch.backends.cudnn.flags(allow_tf32=False):
            found = body(values)
    torch.testing.assert_close(found, expected.float(), rtol=1e-3, atol=1e-3)

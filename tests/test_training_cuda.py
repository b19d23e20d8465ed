"""The training loop on a GPU: float16 with a scaled loss, one kernel for all weights, resuming."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from factories import plan_for

from appliance.training import checkpoint as checkpoints
from appliance.training.engine import train
from appliance.training.optimizer import build_optimizer


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_training_on_a_gpu_goes_on_where_it_was(
    tiny_scenes, tmp_path, optimizer: str, precision: str
) -> None:
    plan = plan_for(
        tiny_scenes,
        steps=6,
        batch_size=4,
        accumulation_steps=2,
        optimizer=optimizer,
        ema_decay=0.5,
        checkpoint_every_steps=1,
    )
    config = replace(plan.config, precision=precision)
    gpu = torch.device("cuda")
    states, reports = [], []

    def go_on(checkpoint):
        network = plan.build_network()
        train(
            network,
            plan.spec,
            tiny_scenes.images,
            config,
            steps=6,
            train_batch_norm=True,
            device=gpu,
            checkpoint=checkpoint,
            on_step=reports.append,
            on_checkpoint=states.append,
        )
        return network

    whole = go_on(None)
    assert all(parameter.is_cuda and parameter.isfinite().all() for parameter in whole.parameters())
    assert all(math.isfinite(report.loss) for report in reports)
    assert bool(states[2].scaler_state) == (precision == "float16")
    path = str(tmp_path / "checkpoint.safetensors")
    checkpoints.save(path, states[2])
    resumed = go_on(checkpoints.load(path))
    assert [report.step for report in reports] == [1, 2, 3, 4, 5, 6, 4, 5, 6]
    assert states[-1].scaler_state == states[5].scaler_state
    # Kernels that add in any order: equal within rounding, not to the bit.
    for first, second in zip(whole.parameters(), resumed.parameters(), strict=True):
        torch.testing.assert_close(first, second, rtol=0.05, atol=5e-3)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_one_kernel_changes_all_weights(tiny_scenes, optimizer: str) -> None:
    plan = plan_for(tiny_scenes, optimizer=optimizer)
    gpu = torch.device("cuda")
    built = build_optimizer(plan.build_network().to(gpu), plan.config, gpu)
    assert all(group["fused"] for group in built.param_groups)

"""Two workers of one run, as two processes with a real process group: what one meets, both do."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from factories import plan_for
from training_cases import run, spoil, told

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.errors import ApplianceError, TrainingStopped
from appliance.training.data import Share

Scenario = Callable[[Path, Share], Any]


def join(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/meeting", world_size=2, rank=rank)


def answer(pipe: Connection, folder: Path) -> None:  # pragma: no cover - in the other process
    """The worker of rank 1: plays every scenario it is sent."""
    join(1, folder)
    while (message := pipe.recv()) is not None:
        scenario, scenes = message
        pipe.send(scenario(scenes, Share(1, 2)))
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory, tiny_scenes_dir) -> Iterator[Callable[[Scenario], list[Any]]]:
    """Plays a scenario on both workers; this process is the one of rank 0."""
    folder = tmp_path_factory.mktemp("workers")
    here, there = multiprocessing.Pipe()
    context = multiprocessing.get_context("spawn")
    other = context.Process(target=answer, args=(there, folder))
    other.start()
    threads = torch.get_num_threads()
    join(0, folder)

    def play(scenario: Scenario) -> list[Any]:
        scenes = tiny_scenes_dir / "train"
        here.send((scenario, scenes))
        mine = scenario(scenes, Share(0, 2))
        assert here.poll(60)
        return [mine, here.recv()]

    yield play
    here.send(None)
    dist.destroy_process_group()
    torch.set_num_threads(threads)
    other.join(60)
    assert other.exitcode == 0


def trained(
    scenes: Path, share: Share, wishes: dict, bad: list[int] = (), **options
) -> dict[str, Any]:
    """What a worker has in the end: weights, reports, the steps of its checkpoints, or an error."""
    data = ObjectDetectionDataset.create_from_dir("tiny", scenes)
    plan = plan_for(data, **{"steps": 3, "batch_size": 4, **wishes})
    reports, states = [], []
    network = spoil(plan.build_network(), bad)
    found: dict[str, Any] = {"reports": reports, "error": None}
    try:
        _, found["outcome"] = run(
            plan,
            data.images,
            network,
            share=share,
            on_step=reports.append,
            on_checkpoint=lambda state: states.append(state.step),
            **options,
        )
    except ApplianceError as error:
        found["error"] = error
    found["steps"] = states
    # Without the statistics of BatchNorm: where they learn, those of rank 0 count, before each step and at
    # the end, and each worker goes on from there with its own pictures.
    found["weights"] = {name: value.detach().numpy() for name, value in network.named_parameters()}
    return found


PLAIN = {"optimizer": "sgd", "learning_rate": 0.01, "train_batch_norm": False}


def plainly(scenes: Path, share: Share) -> dict[str, Any]:
    return trained(scenes, share, PLAIN)


def in_parts(scenes: Path, share: Share) -> dict[str, Any]:
    return trained(scenes, share, {**PLAIN, "accumulation_steps": 2})


def test_two_workers_learn_what_one_learns_in_two_parts(both, tiny_scenes_dir) -> None:
    scenes = tiny_scenes_dir / "train"
    first, second = both(plainly)
    alone = in_parts(scenes, Share())
    assert_close(first["weights"], second["weights"], exactly=True)
    assert_close(first["weights"], alone["weights"])
    for step in range(3):
        ours = [worker["reports"][step] for worker in (first, second)]
        mean = sum(report.loss for report in ours) / 2
        assert alone["reports"][step].loss == pytest.approx(mean, rel=1e-3)
        assert alone["reports"][step].objects == sum(report.objects for report in ours)
        assert ours[0].gradient_norm == ours[1].gradient_norm


def assert_close(first: dict, second: dict, *, exactly: bool = False) -> None:
    tolerance = {"rtol": 0, "atol": 0} if exactly else {"rtol": 1e-3, "atol": 1e-5}
    for name, value in first.items():
        torch.testing.assert_close(
            torch.as_tensor(value), torch.as_tensor(second[name]), **tolerance
        )


def test_parts_on_each_of_two_workers_are_four_parts_on_one(both, tiny_scenes_dir) -> None:
    first, second = both(in_parts)
    assert_close(first["weights"], second["weights"], exactly=True)
    alone = trained(tiny_scenes_dir / "train", Share(), {**PLAIN, "accumulation_steps": 4})
    assert_close(first["weights"], alone["weights"])


def one_bad(scenes: Path, share: Share) -> dict[str, Any]:
    """The second of the worker of rank 1 is bad, and then the third of that of rank 0."""
    bad = [1] if share.rank else [2]
    return trained(scenes, share, {"skip_bad_batches": 1, "ema_decay": 0.5}, bad)


def test_all_leave_out_the_step_that_is_bad_for_one_and_all_tell_the_same(both) -> None:
    first, second = both(one_bad)
    assert [report.skipped for report in first["reports"]] == [False, True]
    assert [report.skipped for report in second["reports"]] == [False, True]
    told_ = str(first["error"])
    assert told_ == str(second["error"])
    assert told_.startswith("The loss is not finite at step 3: rank 0: train_")
    assert "rank 1" not in told_
    assert "(got rank 0: loss_objectness=nan" in told_
    assert all(torch.as_tensor(v).isfinite().all() for v in first["weights"].values())
    assert_close(first["weights"], second["weights"], exactly=True)


def validated_by_the_first(scenes: Path, share: Share) -> dict[str, Any]:
    asked, heard = [], []

    def validate(network, step: int) -> dict[str, float]:
        asked.append(step)
        return told({1: 0.5, 2: 0.4, 3: 0.6})(network, step)

    wishes = {"validate_every_steps": 1, "patience": 1, "ema_decay": 0.5}
    found = trained(
        scenes,
        share,
        wishes,
        validate=validate,
        on_validation=lambda step, metrics: heard.append((step, metrics["map_50"])),
    )
    return {**found, "asked": asked, "heard": heard}


def test_the_first_validates_and_all_stop_together(both) -> None:
    first, second = both(validated_by_the_first)
    assert (first["asked"], second["asked"]) == ([1, 2], [])
    assert first["heard"] == second["heard"] == [(1, 0.5), (2, 0.4)]
    assert first["outcome"] == second["outcome"]
    assert (first["outcome"].step, first["outcome"].stopped_early) == (2, True)
    assert first["steps"] == second["steps"] == [1, 2]
    assert_close(first["weights"], second["weights"], exactly=True)


def stopped_by_the_second(scenes: Path, share: Share) -> dict[str, Any]:
    return trained(scenes, share, {}, stop_requested=lambda: share.rank == 1)


def test_one_that_is_asked_to_stop_stops_all(both) -> None:
    for worker in both(stopped_by_the_second):
        assert isinstance(worker["error"], TrainingStopped)
        assert worker["error"].step == 1
        assert worker["steps"] == [1]

"""Training on a real Ray cluster: workers, checkpoints, resuming, and what users see of failures."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import replace

import psutil
import pytest
import ray
import torch
from factories import assert_equal_weights, plan_for
from survival import steps_recorded

from appliance.errors import ConfigError, ServiceError, StorageError, TrainingStopped
from appliance.model import model_file
from appliance.on_ray import run_driver
from appliance.on_ray.run_control import start_run_control
from appliance.on_ray.run_driver import StopWish, follow
from appliance.on_ray.training import Workers, check_run, train_on_ray, train_to_file
from appliance.on_ray.workers import cpus_for_each
from appliance.training.batching import batch_indices
from appliance.training.monitor import read_validations
from appliance.training.run import train_share
from appliance.training.run_folder import RunFolder

ONE_WORKER = Workers(1, cpus_each=1)
TWO_WORKERS = Workers(2, cpus_each=1)
STEPS = 8


@pytest.fixture(scope="module")
def whole(ray_cluster, tiny_scenes, tmp_path_factory):
    """What two workers make of the small scenes when nothing happens to them."""
    network, _ = train_on_ray(
        plan_for(tiny_scenes, steps=STEPS),
        tiny_scenes.images,
        tmp_path_factory.mktemp("whole") / "run",
        workers=TWO_WORKERS,
        progress=False,
    )
    return network


@pytest.mark.usefixtures("ray_cluster")
def test_one_worker_gives_the_weights_of_training_here(tiny_scenes, tmp_path) -> None:
    plan = plan_for(tiny_scenes, steps=3, checkpoint_every_steps=2)
    model = tmp_path / "model.safetensors"
    trained = train_to_file(
        plan, tiny_scenes.images, tmp_path / "run", str(model), workers=ONE_WORKER, progress=False
    )
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the worker had
    here = train_share(plan, tiny_scenes.images, device="cpu")
    torch.set_num_threads(threads)
    loaded = model_file.load(str(model))
    assert_equal_weights(loaded.network, here)
    assert loaded.version == trained.version
    assert loaded.info.training["steps"] == 3
    assert loaded.info.dataset_digest == tiny_scenes.digest()
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    with pytest.raises(ConfigError, match="holds a training run already"):
        train_on_ray(plan, tiny_scenes.images, tmp_path / "run", workers=ONE_WORKER)


def test_two_workers_resume_where_a_vanished_picture_stopped_them(
    whole, tiny_scenes, tmp_path
) -> None:
    images = tiny_scenes.images
    # The pictures of the third step, which no step before needs, are gone at first.
    plan = plan_for(tiny_scenes, steps=STEPS, checkpoint_every_steps=2)
    third = batch_indices(2, images=len(images), batch_size=2, seed=0)
    gone = list(images)
    for index in third:
        gone[index] = replace(images[index], storage_path=f"gone/{images[index].name}")
    run_dir = tmp_path / "run"
    with pytest.raises(StorageError, match=r"gone/train_\d+\.jpg") as told:
        train_on_ray(plan, gone, run_dir, workers=TWO_WORKERS, progress=False)
    last = run_dir / "checkpoints" / "step-00000002.safetensors"
    assert f"The last good checkpoint is {last}: go on from it with --resume" in str(told.value)
    first_lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    assert len(first_lines) == 2
    resumed, _ = train_on_ray(
        plan, images, run_dir, workers=TWO_WORKERS, resume=True, progress=False
    )
    assert_equal_weights(whole, resumed)
    # With their times in them, lines that stand as before were not written by a second start.
    assert (run_dir / "metrics.jsonl").read_text().splitlines()[:2] == first_lines


def kill_workers(run_dir, steps, killed: list[int]) -> None:
    """Kills one of the training workers below this process after each of the steps."""
    for step in steps:
        while step not in steps_recorded(run_dir):
            threading.Event().wait(0.02)
        workers = [
            child
            for child in psutil.Process().children(recursive=True)
            if "RayTrainWorker" in " ".join(child.cmdline())
        ]
        victim = random.choice(workers)
        victim.kill()
        killed.append(victim.pid)


def test_workers_killed_at_random_steps_end_with_the_same_weights_bit_for_bit(
    whole, tiny_scenes, tmp_path
) -> None:
    kills = sorted(random.sample(range(1, STEPS), 2))
    print("a worker is killed after steps", kills)
    killed: list[int] = []
    killer = threading.Thread(target=kill_workers, args=(tmp_path / "run", kills, killed))
    killer.start()
    network, outcome = train_on_ray(
        plan_for(tiny_scenes, steps=STEPS, checkpoint_every_steps=2),
        tiny_scenes.images,
        tmp_path / "run",
        workers=TWO_WORKERS,
        progress=False,
    )
    killer.join()
    assert len(set(killed)) == 2
    assert outcome.step == STEPS
    assert_equal_weights(whole, network)
    assert steps_recorded(tmp_path / "run") == list(range(1, STEPS + 1))


@pytest.mark.usefixtures("ray_cluster")
def test_the_best_step_of_two_workers_is_found_and_kept(tiny_scenes, tmp_path) -> None:
    plan = plan_for(
        tiny_scenes,
        steps=6,
        learning_rate=1e-9,  # nothing is learnt, so that the first is the best
        validate_every_steps=1,
        patience=2,
        validation_metric="coco_ap",
    )
    network, outcome = train_on_ray(
        plan,
        tiny_scenes.images,
        tmp_path,
        validation=tiny_scenes.images[:2],
        workers=TWO_WORKERS,
        progress=False,
    )
    assert outcome.stopped_early
    assert outcome.best_step is not None
    assert outcome.step == outcome.best_step + 2
    best = RunFolder(tmp_path).checkpoints().load(outcome.best_step)
    assert steps_recorded(tmp_path) == list(range(1, outcome.step + 1))
    validations = read_validations(tmp_path)
    assert [line["step"] for line in validations] == list(range(1, outcome.step + 1))
    assert all(math.isfinite(line["coco_ap"]) for line in validations)
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, best.model_state[name]), name


@pytest.mark.usefixtures("ray_cluster")
def test_a_cluster_without_room_is_told_at_once_and_given_up(
    tiny_scenes, tmp_path, caplog, monkeypatch
) -> None:
    caplog.set_level("INFO", "appliance")
    monkeypatch.setattr(run_driver, "_REMINDER_S", 0.1)
    too_many = Workers(2, use_gpu=True, cpus_each=1000, room_timeout_s=1.0)
    with pytest.raises(ServiceError, match="no room for the workers.*fewer --workers"):
        train_on_ray(plan_for(tiny_scenes), tiny_scenes.images, tmp_path, workers=too_many)
    assert "room for 0 of 2 workers with 1000 CPUs and a GPU each" in caplog.text
    assert "no room yet: waited " in caplog.text


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.parametrize(
    ("lines", "told"), [([], "before its first step"), ([{"step": 1}], "its workers stood still")]
)
def test_who_stops_a_run_that_does_nothing_does_not_wait_for_it(lines, told) -> None:
    control = start_run_control()
    shown = []
    ended = threading.Event()

    def fit() -> None:
        for line in lines:
            ray.get(control.add_line.remote(line))
        os.kill(os.getpid(), signal.SIGTERM)
        ended.wait(60)

    with pytest.raises(TrainingStopped, match=told):
        follow(fit, control, shown.append, stop_timeout_s=0.1)
    ended.set()
    assert shown == lines
    asked = ray.wait([control.stop_requested.remote()], timeout=10 if lines else 0)[0]
    assert bool(asked) == bool(lines)


@pytest.mark.usefixtures("ray_cluster")
def test_a_wish_to_stop_may_be_repeated_before_the_first_is_understood() -> None:
    control = start_run_control()

    def fit() -> str:
        ray.get(control.add_line.remote({"step": 1}))
        # From outside: a thread of this process cannot run while a handler does.
        again = f"import os; [os.kill({os.getpid()}, {signal.SIGTERM}) for _ in range(100_000)]"
        subprocess.run([sys.executable, "-c", again], check=True)
        ray.get(control.stop_requested.remote(), timeout=60)
        return "stopped"

    assert follow(fit, control, lambda line: None) == "stopped"


@pytest.mark.usefixtures("ray_cluster")
def test_the_first_ctrl_c_asks_and_the_second_does_not_wait(caplog) -> None:
    caplog.set_level("INFO", "appliance")
    control, stop = start_run_control(), StopWish(ctrl_c=True)
    asked, ended = [], threading.Event()

    def fit() -> None:
        ray.get(control.add_line.remote({"step": 1}))
        os.kill(os.getpid(), signal.SIGINT)
        ray.get(control.stop_requested.remote(), timeout=60)
        asked.append(stop.at_once)
        os.kill(os.getpid(), signal.SIGINT)
        ended.wait(60)

    with pytest.raises(KeyboardInterrupt):
        follow(fit, control, lambda line: None, stop=stop)
    ended.set()
    assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN  # while the command clears away
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert asked == [False]
    assert stop.exit_code == 130
    assert (
        "stopping after this step, which is saved; Ctrl-C again does not wait for that"
        in caplog.text
    )


@pytest.mark.usefixtures("ray_cluster")
def test_a_second_ctrl_c_that_python_drops_ends_the_run_too(monkeypatch) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda told: None)
    control, stop = start_run_control(), StopWish(ctrl_c=True)

    class Unlucky:
        def __del__(self) -> None:  # where nothing can fail
            signal.raise_signal(signal.SIGINT)

    lines, ended = [], threading.Event()

    def on_line(line: dict) -> None:
        Unlucky()
        Unlucky()
        lines.append(line)

    def fit() -> None:
        ray.get(control.add_line.remote({"step": 1}))
        ended.wait(60)

    with pytest.raises(KeyboardInterrupt):
        follow(fit, control, on_line, stop=stop)
    ended.set()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert lines == [{"step": 1}]


def test_who_ignores_ctrl_c_is_not_stopped_by_it() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    stop = StopWish(ctrl_c=True)
    with stop.heeded():
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    assert (stop.came, stop.exit_code) == (None, 143)


def test_a_batch_that_cannot_be_split_evenly_is_refused(tiny_scenes, tmp_path) -> None:
    with pytest.raises(ConfigError, match="batch size 2 and 3 workers"):
        train_on_ray(plan_for(tiny_scenes), tiny_scenes.images, tmp_path, workers=Workers(3))


def test_what_cpus_cannot_compute_with_is_refused_before_a_cluster_starts(tiny_scenes, tmp_path):
    plan = plan_for(tiny_scenes)
    plan = replace(plan, config=replace(plan.config, precision="float16"))
    with pytest.raises(ConfigError, match="float16 needs a GPU"):
        check_run(plan, tmp_path, Workers(), resume=False)


def test_numbers_of_workers_are_read_and_refused() -> None:
    assert Workers.parse("3") == Workers(3)
    assert Workers.parse(" 1:4", use_gpu=True) == Workers(4, True, min_count=1)
    assert (str(Workers.parse("2:4")), str(Workers.parse("2:2"))) == ("2:4", "2")
    assert Workers.parse("2:4").is_elastic
    assert not Workers.parse("2").is_elastic
    for text in ("", "two", "1:", "1:2:3", "-1"):
        with pytest.raises(ConfigError, match="expected N or MIN:MAX"):
            Workers.parse(text)
    for text in ("0", "3:2", "0:2"):
        with pytest.raises(ConfigError, match=f"out of range .*got {text}"):
            Workers.parse(text)


@pytest.mark.parametrize(
    ("workers", "cpus_of_nodes", "expected"),
    [
        (Workers(1), [8, 8], 8),  # a worker does not span two nodes
        (Workers(2), [8, 8], 8),
        (Workers(3), [8, 8], 4),
        (Workers(4), [0, 2], 1),  # there is no room; it waits for some
        (Workers(2), [0, 4], 2),
        (Workers(2, cpus_each=7), [4], 7),
        (Workers(1), [], 1),
    ],
)
def test_every_worker_gets_what_its_node_can_give(workers, cpus_of_nodes, expected) -> None:
    assert cpus_for_each(workers, cpus_of_nodes) == expected

"""Training across two Ray nodes, and after the loss of one of them."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from survival import steps_recorded

from appliance.training.monitor import read_metrics

# In a process of its own: the suite's cluster is that of this one.
SCRIPT = '''
import json
import logging
import sys
import threading
from pathlib import Path

import psutil
import ray
from factories import plan_for
from ray.cluster_utils import Cluster
from survival import steps_recorded

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.on_ray.training import Workers, train_on_ray

STEPS = 20
NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


def nodes_that_train() -> set[int]:
    """Process ids of the raylets whose children train."""
    found = psutil.Process().children(recursive=True)
    return {child.ppid() for child in found if "RayTrainWorker" in " ".join(child.cmdline())}


def main(data: str, run_dir: Path, step: int) -> None:
    """Trains over both nodes, loses one after a step, goes on with the other."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    dataset = ObjectDetectionDataset.create_from_dir("tiny", data)
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    second = cluster.add_node(**{k: v for k, v in NODE.items() if k != "include_dashboard"})
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
    seen: dict[str, object] = {}

    def lose_a_node() -> None:
        while step not in steps_recorded(run_dir):
            threading.Event().wait(0.02)
        seen["nodes_before"] = len(nodes_that_train())
        cluster.remove_node(second, allow_graceful=False)

    losing = threading.Thread(target=lose_a_node)
    losing.start()
    _, outcome = train_on_ray(
        plan_for(dataset, steps=STEPS, checkpoint_every_steps=2),
        dataset.images,
        run_dir,
        workers=Workers(2, cpus_each=1, min_count=1),
        progress=False,
    )
    losing.join()
    seen |= {"steps": outcome.step, "nodes_left": sum(n["Alive"] for n in ray.nodes())}
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
'''


@pytest.mark.timeout(600)
def test_training_across_two_nodes_goes_on_when_one_is_lost(tiny_scenes_dir, tmp_path) -> None:
    run_dir, step = tmp_path / "run", random.randrange(2, 8)
    print("a node is lost after step", step)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    environment["PYTHONPATH"] = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, tiny_scenes_dir / "train", run_dir, str(step)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["nodes_before"] == 2
    assert seen["nodes_left"] == 1
    assert seen["steps"] == 20
    assert steps_recorded(run_dir) == list(range(1, 21))
    assert all(math.isfinite(line["loss"]) for line in read_metrics(run_dir))
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(run_dir) in str(p.info)]

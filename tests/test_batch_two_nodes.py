"""Scoring across two Ray nodes gives the rows of one, and the loss of one of them half-way costs none."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys

import psutil
import pytest
from bulk_jobs import score_here
from factories import jpeg_bytes

from appliance.bulk.inputs.opening import list_input
from appliance.bulk.scores.manifest import read_records

IMAGES = 120

# In a process of its own: the suite's cluster is that of this one.
SCRIPT = '''
import json
import logging
import sys
import threading
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

from appliance.bulk.config import BatchScoringConfig
from appliance.on_ray.batch_scoring import score_input

NODE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_dashboard": False}


def nodes_that_score() -> set[int]:
    """Process ids of the raylets whose children score."""
    found = psutil.Process().children(recursive=True)
    return {child.ppid() for child in found if "ray::MapWorker" in " ".join(child.cmdline())}


def main(model: str, pictures: str, output: Path, after: int) -> None:
    """Scores on both nodes, loses one when so many parts are done, goes on with the other."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    second = cluster.add_node(**{k: v for k, v in NODE.items() if k != "include_dashboard"})
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, logging_level=logging.WARNING)
    seen: dict[str, object] = {}

    def lose_a_node() -> None:
        while len(list(output.glob("_job-*/parts/part-*"))) < after or len(nodes_that_score()) < 2:
            threading.Event().wait(0.02)
        seen["nodes_before"] = len(nodes_that_score())
        cluster.remove_node(second, allow_graceful=False)

    losing = threading.Thread(target=lose_a_node, daemon=True)
    losing.start()
    config = BatchScoringConfig(workers=2, images_per_part=1, progress="off")
    summary = score_input(model, pictures, str(output), config=config)
    losing.join(timeout=60)
    seen |= {"rows": summary.rows, "nodes_left": sum(n["Alive"] for n in ray.nodes())}
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps(seen))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]), int(sys.argv[4]))
'''


@pytest.mark.timeout(600)
def test_a_node_that_is_lost_half_way_costs_no_row(tiny_model_path, tmp_path) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for index in range(IMAGES):
        (pictures / f"{index:04d}.jpg").write_bytes(jpeg_bytes(seed=index))
    after = random.randrange(5, 30)
    print("a node is lost after part", after)
    environment = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    arguments = (tiny_model_path, pictures, tmp_path / "scores", after)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen == {"nodes_before": 2, "nodes_left": 1, "rows": IMAGES}
    score_here(tiny_model_path, list_input(str(pictures)), tmp_path / "here")
    assert read_records(tmp_path / "scores") == read_records(tmp_path / "here")
    assert not [p for p in psutil.process_iter(["cmdline"]) if str(pictures) in str(p.info)]

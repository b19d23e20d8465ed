"""The cluster file, read as Ray's own cluster launcher reads it."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import jsonschema
import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from serve_app.ingress import variables

ROOT = Path(__file__).resolve().parents[1]
MEMORY_GIB = {"m6i.xlarge": 16, "m6i.2xlarge": 32, "g5.2xlarge": 32}


def cluster_file() -> dict:
    return yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())


@pytest.fixture
def cluster() -> dict:
    prepared = prepare_config(cluster_file())
    validate_config(prepared)
    return prepared


def test_ray_refuses_a_cluster_file_with_an_unknown_key():
    broken = prepare_config({**cluster_file(), "max_worker": 3})
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        validate_config(broken)


def test_the_head_takes_no_tasks(cluster):
    head = cluster["available_node_types"][cluster["head_node_type"]]
    assert head["resources"] == {"CPU": 0}
    assert (head["min_workers"], head["max_workers"]) == (0, 0)


def test_worker_groups_start_at_zero_and_have_their_own_limits(cluster):
    workers = dict(cluster["available_node_types"])
    workers.pop(cluster["head_node_type"])
    assert {name: "GPU" in group["resources"] for name, group in workers.items()} == {
        "gpu_worker": True,
        "cpu_worker": False,
    }
    limits = [group["max_workers"] for group in workers.values()]
    assert all(group["min_workers"] == 0 for group in workers.values())
    assert all(1 <= limit <= cluster["max_workers"] for limit in limits)
    assert sum(limits) == cluster["max_workers"]
    types = [node["node_config"]["InstanceType"] for node in workers.values()]
    assert len(set(types)) == len(types)
    assert 0 < cluster["idle_timeout_minutes"] <= 15


def test_shared_memory_holds_the_object_store_of_the_largest_node(cluster):
    nodes = cluster["available_node_types"].values()
    largest = max(MEMORY_GIB[node["node_config"]["InstanceType"]] for node in nodes)
    (size,) = (
        re.fullmatch(r"--shm-size=(\d+)g", option)
        for option in cluster["docker"]["run_options"]
        if "shm-size" in option
    )
    assert int(size[1]) > 0.3 * largest
    assert "--ulimit=nofile=65536:65536" in cluster["docker"]["run_options"]


def test_image_and_pins_are_of_one_ray_version(cluster):
    pins = (ROOT / "requirements.txt").read_text()
    version = re.search(r"^ray==([\d.]+)", pins, re.MULTILINE)[1]
    assert cluster["docker"]["image"].startswith(f"rayproject/ray:{version}-py311")


def test_every_start_command_makes_its_settings_before_ray_start(cluster):
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        start = commands[-1]
        settings, _, arguments = start.partition("ray start")
        module = re.search(r'eval "\$\(python -m (\S+)\)"', settings)[1]
        assert module == variables.__name__
        assert (
            "RAY_worker_niceness=0" in settings
        )  # as Ray spells it, and as local clusters have it
        assert "unset OMP_NUM_THREADS" in settings
        assert "ulimit -n 65536" in settings
        assert "--disable-usage-stats" in arguments
        syntax = subprocess.run(["bash", "-n", "-c", start], capture_output=True, text=True)
        assert (syntax.returncode, syntax.stderr) == (0, "")


def test_the_dashboard_is_on_the_loopback_and_asks_for_a_token(cluster):
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]
    assert "0.0.0.0" not in str(cluster)
    assert "--env=RAY_AUTH_MODE=token" in cluster["docker"]["run_options"]
    assert "--env=RAY_USAGE_STATS_ENABLED=0" in cluster["docker"]["run_options"]
    assert cluster["file_mounts"]["/home/ray/.ray/auth_token"] == "~/.ray/auth_token"


def test_mounted_files_exist_and_suffice_to_install(cluster):
    mounted = {
        remote: ROOT / local
        for remote, local in cluster["file_mounts"].items()
        if local.startswith("./")
    }
    assert [str(path) for path in mounted.values() if not path.exists()] == []
    assert {Path(remote).name for remote in mounted} >= {"appliance", "jobs", "serve_app"}
    commands = " ".join(cluster["head_setup_commands"] + cluster["worker_setup_commands"])
    for remote in re.findall(r"/home/ray/project/[\w.-]+", commands):
        assert remote in mounted


def test_no_file_of_the_cluster_is_a_secret(cluster):
    assert re.findall(r"AKIA|aws_secret|BEGIN [A-Z ]*PRIVATE KEY", str(cluster)) == []

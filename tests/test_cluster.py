"""The session's cluster lives in this process, so every other cluster gets a process of its own."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from appliance.errors import ServiceError
from appliance.on_ray import cluster
from appliance.on_ray.cluster import connect, local_cluster

PREAMBLE = """
import json, os, sys
import psutil
from appliance.errors import ApplianceError
from appliance.on_ray.cluster import connect, local_cluster

def report(**facts):
    print(json.dumps(facts), flush=True)

def children():
    return [child.pid for child in psutil.Process().children(recursive=True)]

def folder():
    import ray
    return ray.nodes()[0]["ObjectStoreSocketName"].rpartition("/session_")[0]
"""


def run_script(body, **environment):
    """The lines of JSON that a script prints, and its finished process."""
    done = subprocess.run(
        [sys.executable, "-c", PREAMBLE + body],
        env=outside_environment(**environment),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done


def outside_environment(**environment):
    """This process's variables without those of the session's cluster."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    return {**kept, **environment}


def running(pids):
    """Those that do not end within seconds; on a busy machine the last of a cluster may need one."""
    processes = []
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            processes.append(psutil.Process(pid))
    return psutil.wait_procs(processes, timeout=20)[1]


def test_a_local_cluster_is_gone_at_the_end_of_its_block():
    (inside, after), done = run_script(
        """
with local_cluster(num_cpus=3, environment={"RAY_SERVE_EXAMPLE": "7"}) as info:
    import ray
    seen = ray.remote(lambda: {key: os.environ.get(key) for key in
        ("RAY_SERVE_EXAMPLE", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN")} | {"nice": os.nice(0)}).remote()
    report(pids=children(), worker=ray.get(seen), cpus=ray.cluster_resources()["CPU"],
           owned=info.owned, address=info.address, joined=connect().address,
           token=os.environ["RAY_AUTH_TOKEN"], folder=folder())
report(pids=children(), initialized=ray.is_initialized(),
       variables=[key for key in os.environ if key.startswith("RAY_")])
"""
    )
    assert done.returncode == 0
    assert len(inside["pids"]) > 3
    assert inside["owned"] is True
    assert inside["joined"] == inside["address"]
    assert inside["cpus"] == 3
    token = inside["token"]
    assert len(token) == 64
    assert inside["worker"] == {
        "RAY_SERVE_EXAMPLE": "7",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "nice": os.nice(0),
    }
    assert after["initialized"] is False
    assert after["pids"] == []
    assert [key for key in after["variables"] if "AUTH" in key or "SERVE" in key] == []
    assert running(inside["pids"]) == []
    assert not Path(inside["folder"]).exists()
    assert done.stderr == ""  # quiet


def test_an_error_in_the_block_stops_the_cluster_and_keeps_its_logs():
    (inside,), done = run_script(
        """
with local_cluster(num_cpus=1):
    report(pids=children(), folder=folder())
    raise RuntimeError("a bug")
"""
    )
    assert done.returncode == 1
    assert "RuntimeError: a bug" in done.stderr
    assert running(inside["pids"]) == []
    assert f"the logs of Ray are kept in {inside['folder']}" in done.stderr
    assert list(Path(inside["folder"]).glob("session_latest/logs/raylet.*"))
    shutil.rmtree(inside["folder"])


def test_ctrl_c_stops_the_cluster():
    script = """
with local_cluster(num_cpus=1):
    report(pids=children(), folder=folder())
    sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + script],
        env=outside_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        inside = json.loads(process.stdout.readline())
        os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to everybody in the foreground
        _, errors = process.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors.splitlines()
    assert running(inside["pids"]) == []
    assert not Path(inside["folder"]).exists()


def test_connect_starts_a_cluster_that_ends_with_the_process():
    (inside,), done = run_script(
        """
info = connect()
report(pids=children(), owned=info.owned)
"""
    )
    assert (done.returncode, inside["owned"]) == (0, True)
    assert running(inside["pids"]) == []


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("127.0.0.1:1", "No Ray cluster answers: 127.0.0.1:1"),
        ("no.such.host.invalid:6379", "No Ray cluster answers"),
        ("ray://127.0.0.1:10001", "Not an address of a Ray cluster"),
        ("somewhere", "Not an address of a Ray cluster"),
    ],
)
def test_an_address_without_a_cluster_is_one_sentence(address, sentence):
    (told,), done = run_script(
        """
try:
    connect()
except ApplianceError as error:
    report(told=str(error))
""",
        RAY_ADDRESS=address,
    )
    assert done.returncode == 0
    assert told["told"].startswith(sentence)
    assert done.stderr == ""


def test_a_process_uses_one_cluster(ray_cluster):
    info = connect()
    assert info.owned is False
    assert connect("127.0.0.1:1") == info  # the one in use counts, not the argument
    with pytest.raises(ServiceError, match="in use by this process"):
        local_cluster().__enter__()
    assert connect() == info


def test_the_object_store_fits_the_shared_memory_there_is(tmp_path, monkeypatch):
    minimum, maximum = cluster._MIN_OBJECT_STORE_BYTES, cluster._MAX_OBJECT_STORE_BYTES
    assert minimum <= cluster._default_object_store_bytes() <= maximum
    monkeypatch.setattr(cluster, "_SHARED_MEMORY", tmp_path / "none")
    assert cluster._shared_memory_bytes() == 0
    assert minimum <= cluster._default_object_store_bytes() <= maximum

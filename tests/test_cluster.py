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
from appliance.on_ray.process_environment import UndisturbedStack, own_signals
from appliance.on_ray.scratch import ScratchFolder, scratch_folder

PREAMBLE = """
import json, os, sys
import psutil
from appliance.errors import ApplianceError
from appliance.on_ray.cluster import connect, local_cluster
from appliance.on_ray.cluster_check import dashboard_url

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
           token=os.environ["RAY_AUTH_TOKEN"], folder=folder(), dashboard=dashboard_url())
report(pids=children(), initialized=ray.is_initialized(),
       variables=[key for key in os.environ if key.startswith("RAY_")])
"""
    )
    assert done.returncode == 0
    assert len(inside["pids"]) > 3
    assert inside["owned"] is True
    assert inside["joined"] == inside["address"]
    assert inside["cpus"] == 3
    assert inside["dashboard"] is None  # nobody has asked for it
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


def test_sigterm_to_everybody_is_the_commands_own_affair_and_ctrl_c_stops_the_cluster():
    script = """
import signal
import ray
with local_cluster(num_cpus=1):
    work = ray.remote(lambda: 42)
    signal.signal(signal.SIGTERM, lambda *_: report(answer=ray.get(work.remote())))
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
        os.killpg(process.pid, signal.SIGTERM)  # as `timeout` does
        assert json.loads(process.stdout.readline()) == {"answer": 42}
        assert all(map(psutil.pid_exists, inside["pids"]))
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


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


def fail():
    raise RuntimeError("Ray cannot start")


def start(*steps):
    """Takes the steps of a start, as Ray does, and tells which of them it came through."""
    taken = []
    try:
        with own_signals():
            for step in steps:
                step()
                taken.append(step)
    except (KeyboardInterrupt, RuntimeError) as error:
        taken.append(type(error))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return taken


def test_ctrl_c_is_put_off_to_the_end_of_the_start_whatever_fails_in_it():
    assert start(ctrl_c, list) == [ctrl_c, list, KeyboardInterrupt]
    # Ctrl-C reaches Ray's processes too, and may be why it fails.
    assert start(ctrl_c, fail) == [ctrl_c, KeyboardInterrupt]
    assert start(list, fail) == [list, RuntimeError]
    assert start(ctrl_c, ctrl_c, list) == [ctrl_c, KeyboardInterrupt]


def test_a_second_ctrl_c_that_python_drops_is_not_forgotten(monkeypatch):
    dropped = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: dropped.append(told.exc_type))

    class Unlucky:
        def __del__(self):  # where nothing can fail
            ctrl_c()

    assert start(ctrl_c, Unlucky, list) == [ctrl_c, Unlucky, list, KeyboardInterrupt]
    assert dropped == [KeyboardInterrupt]


def test_who_ignores_ctrl_c_goes_on_ignoring_it():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with own_signals():
            signal.raise_signal(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_nothing_interrupts_what_clears_away():
    done = []
    stack = UndisturbedStack()
    stack.callback(done.append, "all")
    for number in (signal.SIGINT, signal.SIGTERM):
        stack.callback(signal.raise_signal, number)
    with pytest.raises(RuntimeError, match="Ray cannot start"), stack:
        fail()
    assert done == ["all"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_folders_of_dead_processes_go_and_all_others_stay(tmp_path):
    program = """
import sys
from appliance.on_ray.scratch import ScratchFolder
print(ScratchFolder("mine-", sys.argv[1]).path, flush=True)
sys.stdin.read()
"""
    with contextlib.ExitStack() as processes:
        owners = [
            processes.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", program, tmp_path],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(2)
        ]
        living, dead = (Path(owner.stdout.readline().strip()) for owner in owners)
        (dead / "logs").mkdir()
        owners[1].kill()
        owners[1].wait()
        kept = ScratchFolder("mine-", str(tmp_path))
        kept.keep()
        foreign = {tmp_path / "mine-too", tmp_path / "mine-elsewhere"}
        (tmp_path / "mine-too").mkdir()
        (tmp_path / "mine-elsewhere").symlink_to(dead)
        with scratch_folder("mine-", str(tmp_path)) as own:
            with scratch_folder("mine-", str(tmp_path)) as another:
                assert own != another
            assert set(tmp_path.iterdir()) == {living, kept.path, own} | foreign
        assert set(tmp_path.iterdir()) == {living, kept.path} | foreign

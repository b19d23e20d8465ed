"""`appliance doctor`: every line on real ports, files, processes and installed packages."""

from __future__ import annotations

import http.server
import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from serving import plain_service

from appliance.access_keys import add_key
from appliance.operations.doctor import gpu, machine, network
from appliance.operations.doctor.installation import (
    Installation,
    look_at_installation,
    torch_and_torchvision,
)

GIB = 2**30


def package(site: Path, name: str, version: str, *lines: str, built: str | None = None) -> None:
    """An installed package as pip leaves it."""
    info = site / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    head = ("Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}")
    (info / "METADATA").write_text("\n".join([*head, *lines]) + "\n")
    (site / name).mkdir()
    if built is not None:
        (site / name / "version.py").write_text(f"__version__ = '{built}'\n")


def torch_pair(site: Path, torch: str, torchvision: str, wants: str = "==2.15.0") -> Installation:
    package(site, "torch", "2.15.0", built=torch)
    package(site, "torchvision", "0.29.2", f"Requires-Dist: torch{wants}", built=torchvision)
    return Installation((str(site),))


def program(folder: Path, name: str, text: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{text}\n")
    (folder / name).chmod(0o755)


def port_of_nobody() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def by_name(findings) -> dict:
    return {one.name: one for one in findings}


def test_the_command_imports_neither_torch_nor_ray_and_its_exit_code_says_whether_all_is_well():
    script = """
import json, sys
from appliance.cli.main import app
try:
    app(["doctor", "--json", "--port", sys.argv[1]])
finally:
    print(json.dumps(sorted({"torch", "ray", "torchvision"} & set(sys.modules))))
"""
    ran = subprocess.run(
        [sys.executable, "-c", script, str(port_of_nobody())], capture_output=True, text=True
    )
    shown, loaded = map(json.loads, ran.stdout.splitlines())
    wrong = [one["name"] for one in shown["findings"] if one["status"] == "wrong"]
    assert (loaded, wrong, shown["ok"], ran.returncode) == ([], [], True, 0), ran.stdout
    names = {one["name"] for one in shown["findings"]}
    assert names >= {
        *("Python", "packages", "torch and torchvision", "Ray", "CUDA", "CPUs", "memory"),
        *("shared memory", "disk", "port of the service", "Ray token", "keys of the service"),
    }
    assert all((one["advice"] is None) == (one["status"] == "good") for one in shown["findings"])


class Elsewhere(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_error(404)

    def log_message(self, *_):
        pass


def test_a_port_in_use_is_told_with_what_to_do_unless_our_own_service_has_it(
    run_appliance, tiny_model_path, capsys
):
    server = http.server.HTTPServer(("127.0.0.1", 0), Elsewhere)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    assert run_appliance("doctor", "--port", server.server_port) == 1
    server.shutdown()
    thread.join()
    server.server_close()
    lines = capsys.readouterr().out.splitlines()
    place = lines.index(
        f"WRONG  port of the service: {server.server_port} is in use by something else"
    )
    assert lines[place + 1].endswith(
        "-> Stop what uses it, or take another one: `appliance serve MODEL --port N`."
    )
    assert lines[-1] == "Something is wrong: port of the service."
    with plain_service(tiny_model_path) as url:
        port = url.rpartition(":")[2]
        assert run_appliance("doctor", "--port", port, "--json") == 0
        document = json.loads(capsys.readouterr().out)
        assert run_appliance("doctor", "--port", port) == 0
    shown = capsys.readouterr().out
    assert f"good   port of the service: a service of the appliance answers at {port}" in shown
    assert shown.endswith("Nothing is wrong.\n")
    assert all(f" {one['name']}: " in shown for one in document["findings"])


def test_a_port_of_ray_in_use_only_costs_an_option(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setattr(network, "RAY_PORTS", {"port of Ray's head": (port, "--port")})
        found = by_name(network.look_at_ports(port_of_nobody()))["port of Ray's head"]
    assert found.status == "advice"
    assert "`ray start --head --port`" in found.advice


@pytest.mark.parametrize(
    ("torch", "torchvision", "wants", "reason"),
    [
        ("2.15.0+cu132", "0.29.2+cu132", "==2.15.0", None),
        ("2.15.0+cpu", "0.29.2+cu132", "==2.15.0", "different devices"),
        ("2.15.0+cu132", "0.29.2+cu132", "==2.14.1", "wants torch ==2.14.1"),
    ],
)
def test_torch_beside_torchvision(tmp_path, torch, torchvision, wants, reason):
    found = torch_and_torchvision(torch_pair(tmp_path, torch, torchvision, wants))
    assert found.status == ("good" if reason is None else "wrong")
    assert f"{torch} and {torchvision}" in found.found
    assert (reason or "") in found.found


def test_the_pair_of_this_python_is_read_as_torch_itself_tells_it():
    import torch

    assert Installation.of_this_process().built_version("torch") == torch.__version__


def test_packages_that_are_missing_or_of_other_versions(tmp_path):
    package(
        tmp_path,
        "detection-appliance",
        "1.0",
        "Requires-Python: <3",
        "Requires-Dist: numpy>=99",
        "Requires-Dist: rich>=14",
        "Requires-Dist: absent; extra == 'video'",
    )
    package(tmp_path, "numpy", "2.0")
    found = by_name(look_at_installation(Installation((str(tmp_path),))))
    assert found["Python"].status == "wrong"
    assert "Use a Python <3" in found["Python"].advice
    assert found["packages"].found == "numpy is 2.0, not >=99; rich is missing"
    assert found["torch and torchvision"].found == "torch is missing"
    assert found["Ray"].found == "missing"
    (nothing,) = look_at_installation(Installation((str(tmp_path / "empty"),)))
    assert nothing.status == "wrong"
    assert "make setup" in nothing.advice


def test_ray_without_bytecode_or_without_the_program_that_serves(tmp_path, monkeypatch):
    package(tmp_path, "detection-appliance", "1.0", "Requires-Python: >=3")
    package(tmp_path, "ray", "2.60.0")
    installation = Installation((str(tmp_path),))
    found = by_name(look_at_installation(installation))["Ray"]
    assert found.status == "advice"
    assert "compileall" in found.advice
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    found = by_name(look_at_installation(installation))["Ray"]
    assert found.status == "wrong"
    assert "appliance-haproxy" in found.found


def test_gpus(tmp_path, monkeypatch):
    installation = Installation.of_this_process()
    monkeypatch.setenv("PATH", str(tmp_path / "none"))
    assert "no NVIDIA driver" in gpu.look_at_gpus(installation).found
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, "nvidia-smi", "echo Failed to initialize NVML >&2; exit 9")
    failing = gpu.look_at_gpus(installation)
    assert failing.status == "wrong"
    assert "Failed to initialize NVML" in failing.found
    program(tmp_path, "nvidia-smi", "echo H100, 81559 MiB, 580.1")
    cpu_only = gpu.look_at_gpus(torch_pair(tmp_path / "site", "2.15.0+cpu", "0.29.2+cpu"))
    assert cpu_only.status == "wrong"
    assert "built without CUDA" in cpu_only.found


def test_a_gpu_that_torch_cannot_use_is_found_by_computing_on_it(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    program(tmp_path, "nvidia-smi", "echo H100, 81559 MiB, 580.1")
    found = gpu.look_at_gpus(Installation.of_this_process())
    assert found.status == "wrong"
    assert "H100, 81559 MiB, 580.1; but torch" in found.found
    assert "cannot compute" in found.found
    # What takes over for Python here ends at once, as a broken driver may end it.
    program(tmp_path, "python", "echo killed by the driver >&2; exit 9")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    found = gpu.look_at_gpus(Installation.of_this_process())
    assert found.status == "wrong"
    assert "ends with 9: killed by the driver" in found.found
    program(tmp_path, "python", """echo '{"ok": true}'""")
    assert gpu.look_at_gpus(Installation.of_this_process()).status == "good"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "absent"))
    assert gpu.look_at_gpus(Installation.of_this_process()).status == "wrong"


def test_memory_and_disks(tmp_path):
    statuses = [machine.memory(size * GIB).status for size in (1, 3, 8)]
    assert statuses == ["wrong", "advice", "good"]
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < machine.available_memory_bytes() <= total
    assert machine.disk(tmp_path / "not" / "yet", good_bytes=1).status == "good"
    assert machine.disk(tmp_path, good_bytes=2**60).status == "advice"
    assert machine.disk(Path("/proc")).status == "wrong"  # a disk without any room
    here = by_name(machine.look_at_machine(Path("/dev/shm"), shared_memory=tmp_path / "none"))
    assert here["shared memory"].status == "advice"
    assert "Mount" in here["shared memory"].advice
    assert "disk of temporary files" in here
    full = by_name(machine.look_at_machine(tmp_path, shared_memory=Path("/proc")))
    assert "--shm-size" in full["shared memory"].advice


def test_the_cluster_that_is_named():
    assert network.look_at_cluster({}).status == "good"
    assert network.look_at_cluster({"RAY_ADDRESS": "auto"}).status == "good"
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert network.look_at_cluster({"RAY_ADDRESS": address}).status == "good"
        assert network.look_at_cluster({"RAY_ADDRESS": f"http://{address}"}).status == "good"
    gone = network.look_at_cluster({"RAY_ADDRESS": address})
    assert gone.status == "wrong"
    assert "refused" in gone.found
    assert network.look_at_cluster({"RAY_ADDRESS": "head:port"}).status == "wrong"


def test_the_token_of_ray(tmp_path):
    token = tmp_path / ".ray" / "auth_token"
    assert network.look_at_token({}, tmp_path).status == "good"
    token.parent.mkdir()
    token.write_text("secret")
    token.chmod(0o644)
    tmp_path.chmod(0o755)
    assert "chmod 600" in network.look_at_token({}, tmp_path).advice
    tmp_path.chmod(0o700)  # nobody comes that far
    assert network.look_at_token({}, tmp_path).status == "good"
    assert network.look_at_token({"RAY_AUTH_MODE": "disabled"}, tmp_path).status == "wrong"
    assert network.look_at_token({"RAY_AUTH_TOKEN": "s"}, tmp_path).status == "good"
    lost = network.look_at_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "lost")}, tmp_path)
    assert lost.status == "wrong"
    assert "lost" in lost.found


def test_the_keys_of_the_service(tmp_path):
    file = tmp_path / "keys.txt"
    assert network.look_at_keys(None).status == "good"
    assert network.look_at_keys(str(file)).status == "wrong"
    file.write_text("# none yet\n")
    assert "appliance keys new" in network.look_at_keys(str(file)).advice
    add_key(file, "shop-floor")
    file.chmod(0o600)
    assert network.look_at_keys(str(file)).status == "good"
    file.chmod(0o666)
    assert "chmod 600" in network.look_at_keys(str(file)).advice
    file.write_text("shop-floor plain-text\n")
    assert network.look_at_keys(str(file)).status == "wrong"

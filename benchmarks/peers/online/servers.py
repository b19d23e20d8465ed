"""The servers that are compared: their user code, how each is started and asked, and the packages it consists of."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.preparation import Material
from benchmarks.peers.processes import free_port

FOLDER = Path(__file__).parent
_DETECTOR = FOLDER.parent / "detector.py"

Command = Callable[[Path, Material, int, Path], list[str]]
"""Python of the environment, material, port and a folder to work in -> what to start."""


@dataclass(frozen=True)
class Server:
    """One side of the comparison.

    Attributes:
        name: As options and tables say it.
        packages: Whose versions are told.
        command: How it is started.
        asking: How it is asked; a name in `benchmarks.peers.online.asking.ASKINGS`.
        user_code: What a user writes for it.
        requirements: Whose file of pinned packages it needs; None where the project pins them.
        variables: Of its environment, besides those that all have.
        settings: How it is configured, and by whose advice, in words.
        same_predictor: Whether the appliance's predictor computes there, so that only the server is compared.
    """

    name: str
    packages: tuple[str, ...]
    command: Command
    asking: str
    user_code: tuple[Path, ...]
    requirements: str | None = None
    variables: Mapping[str, str] = field(default_factory=dict)
    settings: str = ""
    same_predictor: bool = False


def _module(name: str) -> Command:
    def command(python: Path, material: Material, port: int, folder: Path) -> list[str]:
        return [str(python), "-m", f"benchmarks.peers.online.{name}"]

    return command


def _ours(*options: str) -> Command:
    # Ours is what it is beside everything that its own environment holds.
    def command(python: Path, material: Material, port: int, folder: Path) -> list[str]:
        words = ["serve", material.model, "--port", str(port), *options]
        return [sys.executable, "-m", "appliance.cli.main", *words]

    return command


def _mlserver(python: Path, material: Material, port: int, folder: Path) -> list[str]:
    return [str(python.with_name("mlserver")), "start", str(FOLDER / "mlserver_model")]


def _torchserve(python: Path, material: Material, port: int, folder: Path) -> list[str]:
    """Its archive is made first, as its documentation has it; then the server stays in the foreground."""
    model = FOLDER / "torchserve_model"
    store = folder / "store"
    store.mkdir(exist_ok=True)
    config = folder / "config.properties"
    addresses = {"inference": port, "management": free_port(), "metrics": free_port()}
    lines = [f"{name}_address=http://127.0.0.1:{at}" for name, at in addresses.items()]
    lines += [f"grpc_{name}_port={free_port()}" for name in ("inference", "management")]
    config.write_text("\n".join(["load_models=detector.mar", *lines]) + "\n")
    archive = [
        str(python.with_name("torch-model-archiver")),
        *("--model-name", "detector", "--version", "1.0", "--force"),
        *("--handler", str(model / "handler.py"), "--export-path", str(store)),
        *("--config-file", str(model / "model-config.yaml")),
    ]
    start = [
        str(python.with_name("torchserve")),
        *("--foreground", "--ncs", "--disable-token-auth", "--model-store", str(store)),
        *("--ts-config", str(config)),
    ]
    return [
        *("env", f"TMPDIR={folder}"),  # where it notes that it runs, once a machine
        *("bash", "-c", '"${@:2:$1}" && exec "${@:$1+2}"', "start"),
        *(str(len(archive)), *archive, *start),
    ]


SERVERS = {
    server.name: server
    for server in (
        Server(
            "ours",
            ("ray",),
            _ours(),
            "ours",
            (),
            settings="appliance serve MODEL, defaults; one command and no code",
        ),
        Server(
            "ours_tuned",
            ("ray",),
            _ours("--replicas", "2", "--set", "num_threads=1"),
            "ours",
            (),
            settings="appliance serve MODEL --replicas 2 --set num_threads=1: a process for each core",
        ),
        Server(
            "fastapi",
            ("fastapi", "uvicorn"),
            _module("fastapi_app"),
            "form",
            (FOLDER / "fastapi_app.py", _DETECTOR),
            settings="a worker of uvicorn for each core, torch as it is; blocking path operation",
        ),
        Server(
            "litserve",
            ("litserve",),
            _module("litserve_app"),
            "json",
            (FOLDER / "litserve_app.py", _DETECTOR),
            requirements="litserve",
            settings="workers_per_device=2, max_batch_size=4, batch_timeout=0.01, torch as it is",
        ),
        Server(
            "fastapi_tuned",
            ("fastapi", "uvicorn"),
            _module("fastapi_app"),
            "form",
            (FOLDER / "fastapi_app.py", _DETECTOR),
            variables={"OMP_NUM_THREADS": "1"},
            settings="as fastapi, one thread of torch for each picture",
        ),
        Server(
            "litserve_tuned",
            ("litserve",),
            _module("litserve_tuned"),
            "json",
            (FOLDER / "litserve_tuned.py", _DETECTOR),
            requirements="litserve",
            settings="workers_per_device=2, no batching, one thread of torch a worker",
        ),
        Server(
            "bentoml",
            ("bentoml",),
            _module("bentoml_app"),
            "forms",
            (FOLDER / "bentoml_app.py", _DETECTOR),
            requirements="bentoml",
            variables={"BENTOML_DO_NOT_TRACK": "True"},
            settings="workers=cpu_count, batchable, max_batch_size=4, torch as it is",
        ),
        Server(
            "torchserve",
            ("torchserve",),
            _torchserve,
            "predictions",
            (
                FOLDER / "torchserve_model" / "handler.py",
                FOLDER / "torchserve_model" / "model-config.yaml",
                _DETECTOR,
            ),
            requirements="torchserve",
            settings="2 workers, batchSize 4, maxBatchDelay 10 ms, torch as it is",
        ),
        Server(
            "mlserver",
            ("mlserver",),
            _mlserver,
            "inference",
            (
                FOLDER / "mlserver_model" / "model.py",
                FOLDER / "mlserver_model" / "model-settings.json",
                FOLDER / "mlserver_model" / "settings.json",
                _DETECTOR,
            ),
            requirements="mlserver",
            settings="parallel_workers=2, max_batch_size=4, max_batch_time=0.01, torch as it is",
        ),
        Server(
            "ray_serve",
            ("ray",),
            _module("ray_serve_app"),
            "form",
            (FOLDER / "ray_serve_app.py", _DETECTOR),
            variables={"RAY_USAGE_STATS_ENABLED": "0"},
            settings="as in its example: FastAPI before a deployment of one to two replicas",
        ),
        Server(
            "fastapi_same_predictor",
            ("fastapi", "uvicorn"),
            _module("fastapi_same_predictor"),
            "form_record",
            (FOLDER / "fastapi_same_predictor.py",),
            settings="as fastapi",
            same_predictor=True,
        ),
        Server(
            "litserve_same_predictor",
            ("litserve",),
            _module("litserve_same_predictor"),
            "json_record",
            (FOLDER / "litserve_same_predictor.py",),
            requirements="litserve",
            settings="as litserve",
            same_predictor=True,
        ),
    )
}

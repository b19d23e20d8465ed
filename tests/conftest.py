"""What the tests share: one Ray cluster a session, object stores, one tiny model file, the optional shared data."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from browser import browser, tab  # noqa: F401 - fixtures
from object_stores import (  # noqa: F401 - fixtures
    az_host,
    az_uri,
    gs_host,
    gs_uri,
    s3_host,
    s3_uri,
)
from tiny_fixtures import tiny_model_path, tiny_scenes, tiny_scenes_dir  # noqa: F401 - fixtures
from torchvision_cache import weights_cache  # noqa: F401 - a fixture

from appliance.cli import main as cli

# A run that was started in the background of a shell ignores Ctrl-C, and so would every process that a test
# starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Threads of OpenMP that wait for each other on a busy machine take ten times as long as one, and what is computed
# here is small. Processes that a test starts inherit the variable.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

SHARED_DIR = Path(__file__).resolve().parents[2] / "shared"

CLUSTERS_OF_THEIR_OWN = {
    "test_batch_survives",
    "test_batch_two_nodes",
    "test_container",
    "test_demo",
    "test_jobs",
    "test_training_survives_on_ray",
    "test_two_nodes",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the long proofs")
    parser.addoption(
        "--part",
        choices=("clusters", "rest"),
        help="only the files that need a Ray cluster, or only the others: the two may run side by side",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="a long proof: run `make test-all`, which gives --run-slow")
    skipped = () if config.getoption("--run-slow") else items
    for item in skipped:
        item.add_marker(skip) if "slow" in item.keywords else None
    if part := config.getoption("--part"):  # pragma: no cover - for two runs
        of_clusters = {item.path for item in items if "ray_cluster" in item.fixturenames}
        of_clusters |= {item.path for item in items if item.path.stem in CLUSTERS_OF_THEIR_OWN}
        both = {"clusters": [], "rest": []}
        for item in items:
            both["clusters" if item.path in of_clusters else "rest"].append(item)
        items[:] = both.pop(part)
        config.hook.pytest_deselected(items=[item for left in both.values() for item in left])


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """Data that is not part of the project; tests that use it are skipped where it is absent."""
    if not SHARED_DIR.is_dir():  # pragma: no cover
        pytest.skip("the optional shared data folder is not beside the checkout")
    return SHARED_DIR


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """One local Ray cluster for the whole session."""
    from appliance.on_ray.cluster import local_cluster
    from appliance.on_ray.serving import service_environment

    with local_cluster(num_cpus=4, environment=service_environment()):
        yield


@pytest.fixture(scope="session")
def service_url(tiny_model_path: Path) -> Iterator[str]:  # noqa: F811 - a fixture
    """The address of the service with the tiny model, without Ray, for all who leave it as it is."""
    from serving import plain_service

    with plain_service(tiny_model_path) as url:
        yield url


@pytest.fixture
def own_process_state() -> Iterator[None]:
    """Leaves logging and signals as they were: a command run in this process takes them."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    root.handlers, level = before
    root.setLevel(level)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def run_appliance(monkeypatch: pytest.MonkeyPatch, own_process_state: None) -> Callable[..., int]:
    """Runs the `appliance` command in this process, as typed, and gives its exit code."""

    def run(*arguments: object) -> int:
        monkeypatch.setattr(sys, "argv", ["appliance", *map(str, arguments)])
        ctrl_c = signal.getsignal(signal.SIGINT)
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        signal.signal(signal.SIGINT, ctrl_c)  # a process that the test starts would inherit it
        return int(stopped.value.code or 0)

    return run

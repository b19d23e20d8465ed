"""What the tests share: one Ray cluster a session, object stores, one tiny model file, the optional shared data."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
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

SHARED_DIR = Path(__file__).resolve().parents[2] / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run the long proofs")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="a long proof: run `make test-all`, which gives --run-slow")
    skipped = () if config.getoption("--run-slow") else items
    for item in skipped:
        item.add_marker(skip) if "slow" in item.keywords else None


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

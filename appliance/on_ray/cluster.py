"""The only place that starts, joins and stops Ray.

Two ways to a cluster: `local_cluster` starts one that belongs to the caller and is gone when the block
ends; `connect` joins the cluster of a submitted job or of `RAY_ADDRESS`, and starts a local one only
where there is neither. Everything else in `on_ray` takes a running cluster for granted.

A local cluster asks for a token that only this process and its children know, so that nobody else on
the machine can run code in it, keeps its files in a folder of its own, and is quiet.
"""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from appliance.errors import ConfigError, InputError, ServiceError
from appliance.on_ray.process_environment import (
    LOOPBACK_VARIABLES,
    UndisturbedStack,
    any_agent_port,
    daemons_apart,
    daemons_on_loopback,
    native_output_to,
    own_signals,
    priority_variables,
    quiet_variables,
    refresh_authentication,
    security_variables,
    variables,
)
from appliance.on_ray.scratch import ScratchFolder, remove_abandoned
from appliance.ports import unused_ports

logger = logging.getLogger(__name__)

PROBE_TIMEOUT_S = 5.0
"""How long an address may take to accept a connection before it counts as unreachable."""

_MIB = 2**20
_MIN_OBJECT_STORE_BYTES = 80 * _MIB  # Ray refuses less than 75 MiB
_MAX_OBJECT_STORE_BYTES = 1024 * _MIB  # parts of a job are lists of names: they need little
_SHARED_MEMORY = Path("/dev/shm")
_SESSION_PREFIX = "ray-"
_ADDRESS_VARIABLE = "RAY_ADDRESS"


@dataclass(frozen=True)
class ClusterInfo:
    """A cluster that this process is connected to.

    Attributes:
        address: `host:port` of the head.
        owned: Whether this process started it and stops it.
        start_up_s: Seconds that starting or joining took.
    """

    address: str
    owned: bool
    start_up_s: float


@contextmanager
def local_cluster(
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    environment: Mapping[str, str] | None = None,
    object_store_bytes: int | None = None,
    log_to_driver: bool = False,
    jobs_api: bool = False,
) -> Iterator[ClusterInfo]:
    """A local cluster for the length of a `with` block; stopped at its end, however that comes.

    Without a dashboard, which costs seconds and hundreds of megabytes: who wants one runs `ray start --head` and
    joins by `connect`.

    Args:
        num_cpus: CPUs that Ray may give out; by default those of the machine.
        num_gpus: GPUs likewise.
        environment: Variables that have to stand before Ray starts, such as those of Ray Serve. The
            variables of this process are as before when the block has ended.
        object_store_bytes: Size of the shared memory store; by default a tenth of the memory, at most
            1 GiB and at most what `/dev/shm` has.
        log_to_driver: Whether the output of workers appears here.
        jobs_api: Whether to start the dashboard all the same, on loopback, where Ray takes jobs.

    Raises:
        ServiceError: This process is connected to a cluster already, or Ray cannot start.
    """
    started = time.perf_counter()
    with UndisturbedStack() as stack:
        stack.callback(refresh_authentication)
        # Before the import: Ray and Ray Serve read most of their variables when they are imported.
        stack.enter_context(
            variables(
                {
                    **quiet_variables(),
                    **priority_variables(),
                    **security_variables(),
                    **(LOOPBACK_VARIABLES if jobs_api else {}),
                    **(environment or {}),
                }
            )
        )
        import ray

        if ray.is_initialized():
            raise ServiceError(
                "A Ray cluster is in use by this process already",
                where=_address(),
                hint="End it before starting another",
            )
        refresh_authentication()
        folder = stack.enter_context(_session_folder())
        # Ray's own choice would be 8265, which another cluster may have.
        dashboard_port = unused_ports("127.0.0.1")[0] if jobs_api else None
        store_bytes = object_store_bytes or _default_object_store_bytes()
        # Registered before the start, so that a start that is interrupted is cleaned up as well.
        stack.callback(ray.shutdown)
        try:
            with (
                own_signals(),
                daemons_apart(),
                daemons_on_loopback(),
                any_agent_port(),
                native_output_to(folder / "driver.err"),
            ):
                ray.init(
                    address="local",
                    num_cpus=num_cpus,
                    num_gpus=num_gpus,
                    include_dashboard=jobs_api,
                    dashboard_host="127.0.0.1",
                    dashboard_port=dashboard_port,
                    object_store_memory=store_bytes,
                    log_to_driver=log_to_driver,
                    logging_level=logging.WARNING,
                    _temp_dir=str(folder),
                    _plasma_directory=None
                    if _shared_memory_bytes() >= store_bytes
                    else str(folder),
                )
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise ServiceError(
                "Ray cannot start on this machine", got=_first_line(error)
            ) from error
        info = ClusterInfo(_address(), True, time.perf_counter() - started)
        logger.info("started a local Ray cluster in %.1f s", info.start_up_s)
        yield info


def connect(
    address: str | None = None,
    *,
    environment: Mapping[str, str] | None = None,
    jobs_api: bool = False,
) -> ClusterInfo:
    """Joins the cluster that is meant, or starts a local one that ends with this process.

    The cluster this process uses already, else `address`, else `RAY_ADDRESS` (which a submitted job
    finds set), else a new local one.

    Args:
        address: `host:port` of a head, or "auto" for the cluster of this machine.
        environment: As in `local_cluster`, for a cluster that is started here; one that runs already
            has its own.
        jobs_api: Likewise.

    Raises:
        ConfigError: The address is not of this form.
        ServiceError: No cluster answers there, it wants another token, or none can be started.
    """
    import ray

    started = time.perf_counter()
    if ray.is_initialized():
        return ClusterInfo(_address(), False, 0.0)
    wanted = address or os.environ.get(_ADDRESS_VARIABLE)
    if not wanted:
        stack = ExitStack()
        info = stack.enter_context(local_cluster(environment=environment, jobs_api=jobs_api))
        atexit.register(stack.close)
        return info
    _probe(wanted)
    try:
        with (
            own_signals(),
            variables(quiet_variables()),
            native_output_to(Path(os.devnull)),
        ):
            ray.init(address=wanted, log_to_driver=False, logging_level=logging.WARNING)
    except ray.exceptions.AuthenticationError as error:
        raise ServiceError(
            "The Ray cluster does not accept our token",
            where=wanted,
            got=_first_line(error),
            hint="Set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN to the token of the cluster",
        ) from error
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise ServiceError(
            "Cannot join the Ray cluster",
            where=wanted,
            got=_first_line(error),
            hint="Check the address with `ray status`, and RAY_AUTH_TOKEN if the cluster asks for a token",
        ) from error
    return ClusterInfo(_address(), False, time.perf_counter() - started)


def joins_a_cluster(address: str | None = None) -> bool:
    """Whether `connect` would join a cluster that runs already rather than start one."""
    import ray

    return bool(ray.is_initialized() or address or os.environ.get(_ADDRESS_VARIABLE))


def _probe(address: str) -> None:
    """Fails fast where Ray itself would try for a minute and write pages."""
    if address == "auto":
        return
    parts = urlsplit(f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or "/" in address:
        raise ConfigError(
            "Not an address of a Ray cluster",
            got=repr(address),
            expected="host:port",
            hint="To run on a cluster from outside of it, submit a job: "
            "`ray job submit --working-dir . -- python -m jobs.batch_score ...`",
        )
    try:
        socket.create_connection((host, port), PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise ServiceError(
            "No Ray cluster answers",
            where=address,
            got=error.strerror or str(error),
            hint="Start one with `ray start --head`, or unset RAY_ADDRESS to use a local one",
        ) from None


@contextmanager
def _session_folder() -> Iterator[Path]:
    """Ray's logs and sockets; removed at the end, but kept after an error that was not the user's."""
    # Not below TMPDIR: Linux allows 107 characters for the path of a socket.
    parent = "/tmp"
    remove_abandoned(_SESSION_PREFIX, parent)
    folder = ScratchFolder(_SESSION_PREFIX, parent)
    keep = False
    try:
        yield folder.path
    except Exception as error:
        keep = not isinstance(error, InputError)
        raise
    finally:
        if keep:
            logger.warning("the logs of Ray are kept in %s", folder.path)
            folder.keep()
        else:
            folder.remove()


def _default_object_store_bytes() -> int:
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    wanted = min(memory_bytes // 10, _MAX_OBJECT_STORE_BYTES)
    shared_bytes = _shared_memory_bytes()
    if shared_bytes >= _MIN_OBJECT_STORE_BYTES:
        wanted = min(wanted, shared_bytes)
    return max(wanted, _MIN_OBJECT_STORE_BYTES)


def _shared_memory_bytes() -> int:
    """What may be taken of `/dev/shm`, leaving a tenth; 0 where there is none."""
    if not _SHARED_MEMORY.is_dir():
        return 0
    return shutil.disk_usage(_SHARED_MEMORY).free * 9 // 10


def _address() -> str:
    import ray

    return str(ray.get_runtime_context().gcs_address)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__

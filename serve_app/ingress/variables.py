"""The variables of Ray Serve that have to stand before a cluster starts which is to serve.

    eval "$(python -m serve_app.ingress.variables)"; ray start --head

Importing this module costs neither Ray nor torch: Ray Serve reads its variables when it is imported.
"""

from __future__ import annotations

import shlex
import shutil
import sys
import sysconfig
from pathlib import Path

from appliance.errors import ServiceError
from appliance.ports import unused_ports
from serve_app.ingress.haproxy import HOST_VARIABLE, PROGRAM, PROGRAM_VARIABLE

_LOOPBACK = "127.0.0.1"
DRAINING_S = 2
"""How long a replica that is to stop stays reachable, so that HAProxy learns of it first."""

_SETTINGS = {
    # HAProxy takes the connections instead of a Python proxy, and replicas answer it directly.
    "RAY_SERVE_ENABLE_HA_PROXY": "1",
    # Requests are handled on a replica's main loop, which our engine keeps free.
    "RAY_SERVE_THROUGHPUT_OPTIMIZED": "1",
    # One thread moves more than any model here scores, and leaves the cores to the model.
    "RAY_SERVE_HAPROXY_NBTHREAD": "1",
    # A line per request to a Python process that counts them; `/metrics` counts for us.
    "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
    # The first refused connection says that a replica is gone; the next request goes elsewhere.
    "RAY_SERVE_HAPROXY_OBSERVE_ERROR_LIMIT": "1",
    "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAINING_S),
    # On a busy machine HAProxy and its manager may take longer than the usual five seconds to start; then Serve
    # kills them, and the start of the service with them.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "60",
    # Anybody could send 2 GiB, which would lie in memory before a key or `max_body_bytes` is looked at.
    "RAY_SERVE_GRPC_MAX_MESSAGE_SIZE": str(64 * 2**20),
}


def serve_variables() -> dict[str, str]:
    """Variables for every node of a cluster that serves.

    Raises:
        ServiceError: The project's own program is not installed beside Python.
    """
    return {**_SETTINGS, PROGRAM_VARIABLE: str(_program())}


def local_serve_variables(folder: Path, *, host: str = _LOOPBACK) -> dict[str, str]:
    """Variables for a cluster of this machine alone, beside others that serve here.

    Args:
        host: Where HAProxy is to listen; what is behind it stays on loopback.
        folder: For HAProxy's files and sockets, private to this user. Its path is at most 30 characters
            long: Linux allows 107 for the path of a socket.
    """
    files = {
        "CONFIG_FILE_LOC": "haproxy.cfg",
        "SOCKET_PATH": "admin.sock",
        "SERVER_STATE_BASE": "",
        "SERVER_STATE_FILE": "server-state",
        "METRICS_SOCKET_PATH": "metrics.sock",
    }
    http_port, grpc_port = unused_ports(_LOOPBACK, 2)
    return {
        **serve_variables(),
        **({} if host == _LOOPBACK else {HOST_VARIABLE: host}),
        **{f"RAY_SERVE_HAPROXY_{key}": str(folder / name) for key, name in files.items()},
        # Serve's own proxy, which HAProxy asks while there is no replica.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(http_port),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(grpc_port),
    }


def _program() -> Path:
    beside = Path(sysconfig.get_path("scripts")) / PROGRAM
    found = shutil.which(PROGRAM, path=str(beside.parent)) or shutil.which(PROGRAM)
    if found is None:
        raise ServiceError(
            "The program that starts HAProxy is missing",
            where=beside,
            hint="Install the project: `make setup`, or `pip install --no-deps -e .`",
        )
    return Path(found)


def main() -> None:
    """Prints them as lines for a shell."""
    for name, value in serve_variables().items():
        sys.stdout.write(f"export {name}={shlex.quote(value)}\n")


if __name__ == "__main__":
    main()

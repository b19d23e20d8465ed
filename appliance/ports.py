"""Ports that are free, and stay it until somebody asks for them by number."""

from __future__ import annotations

import errno
import os
import random
import socket
from contextlib import ExitStack
from pathlib import Path

_RANGE_FILE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_RANGE = "32768 60999"
_WIDTH = 8192


def unused_ports(host: str, count: int = 1) -> list[int]:
    """Ports below those that the system gives to whoever asks for any.

    Of these, Ray takes dozens while a cluster starts: one that was free a second ago may be among them.

    Args:
        host: Address to listen on.
        count: How many, all different.

    Raises:
        OSError: There is no such host, or none is free.
    """
    text = _RANGE_FILE.read_text() if _RANGE_FILE.exists() else _USUAL_RANGE
    end = max(int(text.split()[0]), 1024 + _WIDTH)
    found: list[int] = []
    with ExitStack() as probes:  # held until all are found
        for port in random.sample(range(end - _WIDTH, end), _WIDTH):
            try:
                probes.enter_context(_listening(host, port))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue
            found.append(port)
            if len(found) == count:
                return found
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)

"""Everything that `appliance doctor` looks at, in order."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from appliance.operations.doctor.finding import Finding
from appliance.operations.doctor.gpu import look_at_gpus
from appliance.operations.doctor.installation import Installation, look_at_installation
from appliance.operations.doctor.machine import look_at_machine
from appliance.operations.doctor.network import (
    look_at_cluster,
    look_at_keys,
    look_at_ports,
    look_at_token,
)


def examine(folder: Path, *, service_port: int, key_file: str | None) -> Iterator[Finding]:
    """Looks at this machine and its Python; starts no cluster, and changes nothing.

    Args:
        folder: Where results are to go.
        service_port: Where the service is to listen.
        key_file: File of the service's keys, if there is one.
    """
    installation = Installation.of_this_process()
    yield from look_at_installation(installation)
    yield look_at_gpus(installation)
    yield from look_at_machine(folder)
    yield from look_at_ports(service_port)
    yield look_at_cluster(os.environ)
    yield look_at_token(os.environ, Path.home())
    yield look_at_keys(key_file)

"""Ports that the appliance and Ray want, the cluster that is named, and the tokens and keys that protect them."""

from __future__ import annotations

import json
import os
import socket
import stat
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

from appliance.access_keys import read_key_file
from appliance.errors import InputError
from appliance.operations.doctor.finding import Finding, good, improvable, wrong

_TIMEOUT_S = 3.0
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
RAY_PORTS = {
    "port of Ray's head": (6379, "--port"),
    "port of Ray's dashboard": (8265, "--dashboard-port"),
}


def look_at_ports(service_port: int) -> Iterator[Finding]:
    """Whether the service and a head of Ray find their usual ports free."""
    yield _service_port(service_port)
    for name, (port, option) in RAY_PORTS.items():
        if _is_free(port):
            yield good(name, f"{port} is free")
        else:
            yield improvable(
                name,
                f"{port} is in use",
                f"Join that cluster with `--address auto` if it is Ray; else give `ray start --head {option}` another",
            )


def look_at_cluster(variables: Mapping[str, str]) -> Finding:
    """Whether the cluster that `RAY_ADDRESS` names answers."""
    name = "Ray cluster"
    address = variables.get("RAY_ADDRESS", "")
    if not address:
        return good(name, "none named: commands start one of their own while they run")
    if address in ("auto", "local"):
        return good(name, f"RAY_ADDRESS={address}")
    parts = urlsplit(address if "//" in address else f"//{address}")
    try:
        socket.create_connection((parts.hostname or "", parts.port or 0), _TIMEOUT_S).close()
    except (OSError, ValueError) as error:
        return wrong(
            name,
            f"nobody answers at RAY_ADDRESS={address}: {getattr(error, 'strerror', None) or error}",
            "Start it with `ray start --head`, or unset RAY_ADDRESS to use a local one",
        )
    return good(name, f"{address} answers")


def look_at_token(variables: Mapping[str, str], home: Path) -> Finding:
    """Whether clusters ask for a token that others do not have."""
    name = "Ray token"
    mode = variables.get("RAY_AUTH_MODE", "token")
    if mode != "token":
        return wrong(
            name,
            f"RAY_AUTH_MODE={mode}: whoever reaches a cluster runs code on it",
            "Set RAY_AUTH_MODE=token, or unset it",
        )
    if variables.get("RAY_AUTH_TOKEN"):
        return good(name, "of RAY_AUTH_TOKEN")
    given = variables.get("RAY_AUTH_TOKEN_PATH")
    file = Path(given) if given else home / ".ray" / "auth_token"
    if not file.is_file():
        if given:
            return wrong(
                name,
                f"no file at RAY_AUTH_TOKEN_PATH={given}",
                "Write the cluster's token there, or unset the variable",
            )
        return good(name, "none kept: local clusters make one of their own")
    if file.stat().st_mode & _OTHERS and home.stat().st_mode & stat.S_IXOTH:
        return improvable(
            name, f"{file} can be read by others of this machine", f"Close it: `chmod 600 {file}`"
        )
    return good(name, f"in {file}")


def look_at_keys(key_file: str | None) -> Finding:
    """Whether the file of the service's keys can be used."""
    name = "keys of the service"
    if key_file is None:
        return good(name, "no --keys FILE given: needed only to serve beyond loopback")
    try:
        keys = read_key_file(key_file)
    except InputError as error:
        return wrong(name, error.message, error.hint or "Correct the file")
    if not keys:
        return wrong(
            name, f"no key in {key_file}", f"Make one: `appliance keys new NAME --file {key_file}`"
        )
    if os.stat(key_file).st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return wrong(name, f"others may write to {key_file}", f"Close it: `chmod 600 {key_file}`")
    return good(name, f"{len(keys)} in {key_file}")


def _service_port(port: int) -> Finding:
    name = "port of the service"
    if _is_free(port):
        return good(name, f"{port} is free")
    if _is_ours(port):
        return good(name, f"a service of the appliance answers at {port}")
    return wrong(
        name,
        f"{port} is in use by something else",
        "Stop what uses it, or take another one: `appliance serve MODEL --port N`",
    )


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _is_ours(port: int) -> bool:
    try:
        with urllib.request.urlopen(
            f"http://127.0.0.1:{port}/healthz", timeout=_TIMEOUT_S
        ) as answer:
            return bool(json.loads(answer.read(1000)) == {"status": "alive"})
    except (OSError, ValueError):
        return False

"""Ports that stay free while a cluster starts."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from appliance import ports
from appliance.ports import unused_ports


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_they_are_free_different_and_not_among_those_that_anybody_gets(host):
    found = unused_ports(host, 3)
    first_of_anybody = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    assert len(set(found)) == 3
    assert max(found) < first_of_anybody
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in found:
        socket.create_server((host, port), family=family).close()


def test_one_that_is_taken_is_passed_over(monkeypatch):
    monkeypatch.setattr(ports, "_WIDTH", 2)
    (first,) = unused_ports("127.0.0.1")
    with ExitStack() as held:
        held.enter_context(socket.create_server(("127.0.0.1", first)))
        (second,) = unused_ports("127.0.0.1")
        assert second != first
        held.enter_context(socket.create_server(("127.0.0.1", second)))
        with pytest.raises(OSError, match="in use"):
            unused_ports("127.0.0.1")


def test_no_such_host_is_told_at_once():
    with pytest.raises(OSError, match="assign"):
        unused_ports("192.0.2.1")

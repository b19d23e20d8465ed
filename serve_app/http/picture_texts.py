"""Pictures as text: base64 in all the forms that clients send."""

from __future__ import annotations

import base64
import binascii

from serve_app.errors import RequestError

_URL_SAFE = str.maketrans("-_", "+/")


def decode_image_text(text: str, where: str, *, index: int | None = None) -> bytes:
    """The bytes that a text stands for.

    Args:
        text: Base64 (standard or URL-safe, with or without padding and line breaks), a data URI, or
            either of them as Python prints bytes: `b'...'`.
        where: The field's name, for messages.
        index: Which picture of a list, for messages.

    Raises:
        RequestError: 400, it is none of these.
    """
    payload = text.strip()
    if payload[:2] in ("b'", 'b"') and payload[-1] == payload[1] and len(payload) > 2:
        # The text of `base64.encodebytes` holds its line breaks as backslash and n.
        payload = payload[2:-1].replace("\\n", "")
    if payload[:5].lower() == "data:":
        head, _, payload = payload.partition(",")
        if not head.lower().endswith(";base64"):
            raise _not_base64(where, index, "a data URI without ;base64")
    try:
        return binascii.a2b_base64(payload, strict_mode=True)
    except ValueError:
        pass  # the exact form is the fast path; the tolerant one rewrites the text first
    payload = "".join(payload.split()).translate(_URL_SAFE).rstrip("=")
    try:
        return base64.b64decode(payload + "=" * (-len(payload) % 4), validate=True)
    except ValueError:
        raise _not_base64(where, index, f"{len(text):,} characters that are none") from None


def _not_base64(where: str, index: int | None, got: str) -> RequestError:
    return RequestError(
        400,
        "invalid_base64",
        f"Not base64: {where} (got {got})",
        hint="Encode the bytes of the picture file as base64",
        index=index,
    )

"""Bodies that clients have compressed, unpacked only as far as the limit for bodies goes."""

from __future__ import annotations

import zlib

from serve_app.errors import RequestError
from serve_app.http.service import body_too_large

_WINDOW_BITS = {"gzip": 31, "x-gzip": 31, "deflate": 15}


def unpacked(body: bytes, content_encoding: str | None, max_bytes: int) -> bytes:
    """The body as it was before its client compressed it.

    Args:
        body: As received.
        content_encoding: The header; None for a body as it is.
        max_bytes: Most bytes to unpack.

    Raises:
        RequestError: 400 for what is not compressed that way, 413 beyond the limit, 415 for another way.
    """
    encoding = (content_encoding or "identity").strip().lower()
    if encoding == "identity":
        return body
    if encoding not in _WINDOW_BITS:
        raise RequestError(
            415,
            "unsupported_encoding",
            f"The Content-Encoding {encoding[:40]} is not read",
            hint="Send gzip or deflate, or leave it out",
        )
    unpacker = zlib.decompressobj(_WINDOW_BITS[encoding])
    try:
        data = unpacker.decompress(body, max_bytes + 1)
    except zlib.error:
        data = None
    if data is not None and len(data) > max_bytes:
        raise body_too_large(max_bytes)
    if data is None or not unpacker.eof or unpacker.unused_data:
        raise RequestError(
            400,
            "invalid_encoding",
            f"The body is not one whole {encoding} stream",
            hint="Compress the whole body once",
        )
    return data

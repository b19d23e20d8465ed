"""Multipart bodies, part by part as they come, in bounded memory; the grammar and the limits of headers are
python-multipart's.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serve_app.errors import RequestError

# What a client gets wrong is told to the client, and by it alone: the parser's warnings would let anyone
# fill the log.
logging.getLogger("python_multipart").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Part:
    """One part: a field of a form, or a file.

    Attributes:
        name: The field's name; empty when it has none.
        filename: What the client calls the file, or None.
        media_type: In lower case, without parameters; empty when there is none.
        data: The content.
    """

    name: str
    filename: str | None
    media_type: str
    data: bytes

    @property
    def is_picture(self) -> bool:
        """Whether it is a file rather than a field with text."""
        return self.filename is not None or self.media_type.startswith(
            ("image/", "application/octet-stream")
        )


class MultipartReader:
    """Takes a body in chunks and gives the parts that are complete.

    Args:
        content_type: The whole header, with the boundary.
        max_part_bytes: Largest part.
        max_parts: Most parts; None for a stream of any length.

    Raises:
        RequestError: 400, the header names no boundary.
    """

    def __init__(
        self, content_type: str, max_part_bytes: int, *, max_parts: int | None = None
    ) -> None:
        boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
        if not boundary:
            raise _malformed("the header Content-Type names no boundary")
        self._max_part_bytes = max_part_bytes
        self._parts_left = max_parts
        self._parts: list[Part] = []
        self._ended = False
        self._begin_part()
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._begin_part,
                "on_part_data": self._on_data,
                "on_part_end": self._end_part,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._end_header,
                "on_end": self._end,
            },
        )

    def feed(self, chunk: bytes) -> list[Part]:
        """The parts that `chunk` completes.

        Raises:
            RequestError: 400, it is no multipart body; 413, a part is too large, or there are too many.
        """
        try:
            self._parser.write(chunk)
        except FormParserError as error:
            raise _malformed(str(error)[:200]) from None
        done, self._parts = self._parts, []
        return done

    def finish(self) -> None:
        """To be called after the last chunk.

        Raises:
            RequestError: 400, the body stops in the middle.
        """
        if not self._ended:
            raise _malformed("it ends before its last boundary")

    def _begin_part(self) -> None:
        self._data = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._field, self._value = b"", b""

    def _on_data(self, data: bytes, start: int, end: int) -> None:
        if len(self._data) + end - start > self._max_part_bytes:
            raise RequestError(
                413,
                "body_too_large",
                f"A part is larger than {self._max_part_bytes:,} bytes",
                hint="Send a smaller picture",
            )
        self._data += data[start:end]

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field, self._value = b"", b""

    def _end_part(self) -> None:
        if self._parts_left is not None:
            self._parts_left -= 1
            if self._parts_left < 0:
                raise RequestError(
                    413,
                    "too_many_parts",
                    "The form has too many parts",
                    hint="Send several requests, or use /v1/detect/stream",
                )
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        media_type, _ = parse_options_header(self._headers.get(b"content-type", b""))
        filename = options.get(b"filename")
        self._parts.append(
            Part(
                options.get(b"name", b"").decode("utf-8", "replace"),
                None if filename is None else filename.decode("utf-8", "replace"),
                media_type.decode("latin-1").lower(),
                bytes(self._data),
            )
        )
        self._data = bytearray()

    def _end(self) -> None:
        self._ended = True


def _malformed(reason: str) -> RequestError:
    return RequestError(
        400,
        "invalid_multipart",
        f"The body is not multipart: {reason}",
        hint="Let your HTTP client make it, as in curl -F image=@picture.jpg",
    )

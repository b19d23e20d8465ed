"""Scores pictures over HTTP: the other end of `serve_app`, with the same records."""

from __future__ import annotations

import http.client
import json
from http import HTTPStatus
from urllib.parse import urlencode, urlsplit

from appliance.errors import ServiceError
from appliance.records import Record


class Client:
    """A connection to one service, kept open between pictures. Not for two threads at once.

    Args:
        url: Of the service, such as `http://127.0.0.1:8000`.
        timeout_s: Longest wait for an answer.
    """

    def __init__(self, url: str, *, timeout_s: float = 60.0) -> None:
        address = urlsplit(url)
        if address.scheme not in ("http", "https") or not address.hostname:
            raise ServiceError(
                "Not the address of a service", got=url, expected="such as http://127.0.0.1:8000"
            )
        connection = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}
        self._url = url.rstrip("/")
        self._path = address.path.rstrip("/")
        self._connection = connection[address.scheme](
            address.hostname, address.port, timeout=timeout_s
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc: object) -> None:
        self._connection.close()

    def detect(self, data: bytes, *, name: str = "upload", **options: object) -> Record:
        """Scores one picture.

        Args:
            data: The encoded file.
            name: Becomes `image_uri` of the record.
            **options: Further query parameters, such as `score_threshold=0.5`.

        Raises:
            ServiceError: The service cannot be reached, or refused the picture.
        """
        target = f"{self._path}/v1/detect?{urlencode({'name': name, **options})}"
        headers = {"Content-Type": "application/octet-stream"}
        try:
            self._connection.request("POST", target, data, headers)
            response = self._connection.getresponse()
            text = response.read().decode()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise ServiceError(
                "The service does not answer",
                where=self._url,
                got=str(error) or type(error).__name__,
                hint="Start one with `appliance serve MODEL`",
            ) from None
        if response.status != HTTPStatus.OK:
            raise ServiceError("The service refused a picture", where=name, got=_refusal(text))
        return Record.from_row(json.loads(text))


def _refusal(text: str) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return text[:200]

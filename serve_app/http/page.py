"""`GET /`: one page to try the service in a browser, and the files that it consists of.

The files lie in `page/` as the browser gets them: no build step, nothing from elsewhere. The page needs no
key; what it asks of the service does.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException

from serve_app.http.service import Service

_FOLDER = Path(__file__).with_name("page")
_INDEX = "index.html"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".jpg": "image/jpeg",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# Scripts and styles come from files of this origin alone, none from within the page: text that a picture or
# a label brings along can never run. `blob:` is the picture that the user has chosen.
_CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
_HEADERS = {
    # A new version of the service shows at once; what has not changed costs an empty answer.
    "Cache-Control": "no-cache",
    "Content-Security-Policy": _CONTENT_SECURITY_POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


@dataclass(frozen=True)
class PageFile:
    """A page, or a file that one consists of.

    Attributes:
        content: As it goes out.
        headers: Of the answer; among them those by which nothing from elsewhere gets into the page.
    """

    content: bytes
    headers: dict[str, str]

    @classmethod
    def of(cls, content: bytes, suffix: str) -> PageFile:
        """One of a kind that the name of a file would end with."""
        etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        own = {"Content-Type": _MEDIA_TYPES[suffix], "ETag": etag}
        return cls(content, {**_HEADERS, **own})

    def answer(self, request: Request) -> Response:
        """All of it, or only that the client has it already."""
        known = request.headers.get("if-none-match", "")
        if known == "*" or self.headers["ETag"] in known:
            return Response(status_code=304, headers=self.headers)
        return Response(self.content, headers=self.headers)


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds `GET /` and `/page/{name}`; they are no part of the API, so OpenAPI does not list them."""
    del service  # every service has the same page
    files = {path.name: PageFile.of(path.read_bytes(), path.suffix) for path in _FOLDER.iterdir()}

    @app.api_route("/", methods=["GET", "HEAD"], include_in_schema=False)
    async def page(request: Request) -> Response:
        return files[_INDEX].answer(request)

    @app.api_route("/page/{name}", methods=["GET", "HEAD"], include_in_schema=False)
    async def page_file(request: Request, name: str) -> Response:
        if name not in files or name == _INDEX:
            raise HTTPException(404)
        return files[name].answer(request)

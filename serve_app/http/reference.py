"""`GET /docs`: the OpenAPI description as a page to read. Made here, without a script and with nothing from elsewhere."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any

from fastapi import FastAPI, Request, Response

from serve_app.http import frames
from serve_app.http.page import PageFile
from serve_app.http.service import Service

_CURL = """curl --data-binary @picture.jpg -H 'Content-Type: image/jpeg' URL/v1/detect
curl -F image=@a.jpg -F image=@b.jpg 'URL/v1/detect?score_threshold=0.5&amp;labels=cat,dog'
curl -H 'Authorization: Bearer KEY' --data-binary @picture.jpg -H 'Content-Type: image/jpeg' \\
  'URL/v1/detect?format=annotated' -o annotated.jpg"""
_CODE, _AS_CODE = re.compile("`([^`]+)`"), r"<code>\1</code>"
_FIRST = f"""<p>Where the service asks for a key, send it as <code>Authorization: Bearer KEY</code>. URL is the address
of the service.</p><pre tabindex="0">{_CURL}</pre>"""


def add_routes(app: FastAPI, service: Service) -> None:
    """Adds `GET /docs`."""
    del service  # every service has the same page

    @functools.cache
    def file() -> PageFile:
        return PageFile.of(reference_page(app.openapi()).encode(), ".html")

    @app.api_route("/docs", methods=["GET", "HEAD"], include_in_schema=False)
    async def docs(request: Request) -> Response:
        return file().answer(request)


def reference_page(description: Mapping[str, Any]) -> str:
    """An OpenAPI description as HTML.

    Args:
        description: As FastAPI makes it.
    """
    title = escape(description["info"]["title"])
    by_tag: dict[str, list[str]] = {}
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            part = _operation(method.upper(), path, operation)
            by_tag.setdefault(operation["tags"][0], []).append(part)
            if path == "/v1/detect/stream":
                by_tag[operation["tags"][0]].append(_frames())
    sections = [
        f"<section><h2>{escape(tag[:1].upper() + tag[1:])}</h2>{''.join(parts)}</section>"
        for tag, parts in by_tag.items()
    ]
    shapes = "".join(
        f'<h3 id="{escape(name)}">{escape(name)}</h3>{_prose(schema.get("description", ""))}{_fields(schema)}'
        for name, schema in description["components"]["schemas"].items()
        if not name.endswith("ValidationError")
    )
    return f"""<!doctype html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <title>{title}: API reference</title>
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <meta name="color-scheme" content="light dark">
  <link rel="icon" href="page/icon.svg" type="image/svg+xml">
  <link rel="stylesheet" href="page/page.css">
  <link rel="stylesheet" href="page/reference.css">
</head>
<body class="reference">
  <header><div class="brand"><img src="page/icon.svg" alt="" width="36" height="36">
    <div><h1>{title}: API reference</h1><p class="soft small">For programs: <a href="openapi.json">openapi.json</a>
    &middot; <a href="./">try it in the browser</a></p></div></div></header>
  <main>
    <section>{_prose(description["info"]["description"])}{_FIRST}</section>
    {"".join(sections)}
    <section><h2>Shapes</h2>{shapes}</section>
  </main>
</body>
</html>
"""


def _operation(method: str, path: str, operation: Mapping[str, Any]) -> str:
    parts = [_prose(operation.get("description", ""))]
    if parameters := operation.get("parameters"):
        rows = (
            (item["name"], item["in"], _type(item["schema"]), _prose(item.get("description", "")))
            for item in parameters
        )
        parts.append(_table(("parameter", "in", "type", ""), rows))
    for media_types, content in _contents(operation.get("requestBody", {})):
        parts.append(f"<h4>Body: {media_types}</h4>{_content(content)}")
    for status, answer in operation["responses"].items():
        if status.startswith("2"):
            parts.append(f"<h4>{status}: {escape(answer['description'])}</h4>")
            for media_types, content in _contents(answer):
                parts.append(f"<p>{media_types}</p>{_content(content)}")
    refusals = (
        (status, _prose(answer["description"]))
        for status, answer in operation["responses"].items()
        if not status.startswith("2") and "ValidationError" not in json.dumps(answer)
    )
    parts.append(_table(("status", "refused because"), refusals))
    return _entry(method, path, operation["summary"], "".join(parts))


def _frames() -> str:
    """What OpenAPI has no words for: the WebSocket."""
    return _entry("WS", "/v1/stream", "Detect objects in frames", _prose(frames.__doc__ or ""))


def _entry(method: str, path: str, summary: str, content: str) -> str:
    return (
        f'<details class="card"><summary><b>{method}</b> <code>{escape(path)}</code> '
        f'<span class="soft">{escape(summary)}</span></summary>{content}</details>'
    )


def _contents(holder: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The forms of a body or an answer; media types of one form together."""
    forms: dict[str, list[str]] = {}
    for media_type, content in holder.get("content", {}).items():
        forms.setdefault(json.dumps(content), []).append(f"<code>{escape(media_type)}</code>")
    return [(", ".join(names), json.loads(text)) for text, names in forms.items()]


def _content(content: Mapping[str, Any]) -> str:
    schema = content.get("schema", {})
    fields = _fields(schema) or f"<p>{_type(schema)}</p>" * bool(schema)
    if "example" not in content:
        return fields
    example = content["example"]
    text = example if isinstance(example, str) else json.dumps(example, indent=2)
    return f'{fields}<pre tabindex="0">{escape(text)}</pre>'


def _fields(schema: Mapping[str, Any]) -> str:
    required = schema.get("required", ())
    rows = (
        (
            name,
            _type(field) + ("" if name in required else ", optional"),
            _prose(field.get("description", "")),
        )
        for name, field in schema.get("properties", {}).items()
    )
    return _table(("field", "type", ""), rows)


def _type(schema: Mapping[str, Any]) -> str:
    """What values a schema allows, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if choices := schema.get("anyOf"):
        return " or ".join(_type(choice) for choice in choices if choice != {"type": "null"})
    if "enum" in schema:
        return " or ".join(f"<code>{escape(json.dumps(value))}</code>" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if "properties" in schema:
        names = (f"<code>{escape(name)}</code>" for name in schema["properties"])
        return f"object with {', '.join(names)}"
    text = escape(schema.get("format") or schema.get("type") or "anything")
    limits = (
        ("minimum", " from {}"),
        ("maximum", " to {}"),
        ("maxLength", " of at most {} characters"),
    )
    return text + "".join(words.format(schema[key]) for key, words in limits if key in schema)


def _prose(text: str) -> str:
    """Paragraphs, with `code` between backticks."""
    blocks = (escape(" ".join(block.split())) for block in text.split("\n\n") if block.strip())
    return "".join(f"<p>{_CODE.sub(_AS_CODE, block)}</p>" for block in blocks)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table whose first column is code; nothing where there are no rows."""
    lines = [
        f"<tr><th scope=row><code>{escape(first)}</code></th>{''.join(f'<td>{cell}</td>' for cell in rest)}</tr>"
        for first, *rest in rows
    ]
    if not lines:
        return ""
    names = "".join(f"<th scope=col>{escape(name)}</th>" for name in head)
    return f"<div class=wide><table><thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"

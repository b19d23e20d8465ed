"""Options of a request: from its query, or from its body."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serve_app.http.json_bodies import validated, wrong_shape
from serve_app.http.schemas import DetectOptions


def merged(query: DetectOptions, body: Mapping[str, Any]) -> DetectOptions:
    """The options of the query together with those of the body.

    Raises:
        RequestError: 422, one of the body is wrong, or stands in the query as well.
    """
    if not body:
        return query
    twice = sorted(query.model_fields_set & set(body))
    if twice:
        raise wrong_shape(f"{', '.join(twice)}: given in the query and in the body")
    return validated(DetectOptions, {**query.model_dump(exclude_unset=True), **body}, "")

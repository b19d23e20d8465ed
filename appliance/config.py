"""From untrusted settings (flags, YAML, HTTP) to validated ones, with one clear sentence per mistake.

A room keeps its settings as a frozen dataclass or a pydantic model beside the code that obeys them; here
is only the border: unknown keys are refused, values are converted strictly enough to catch typing
errors, and pydantic's report becomes a `ConfigError`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from appliance import storage
from appliance.errors import ConfigError

T = TypeVar("T")


def parse_settings(cls: type[T], values: Mapping[str, Any], *, source: str) -> T:
    """Builds `cls`, a dataclass or a pydantic model, from plain values.

    Args:
        cls: The settings class.
        values: Key -> value.
        source: Where the values come from, for messages: "command line", a file name.

    Raises:
        ConfigError: A key is unknown or a value does not fit.
    """
    from pydantic import TypeAdapter, ValidationError

    known = _field_names(cls)
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            raise ConfigError(
                "Unknown setting",
                where=source,
                got=repr(key),
                hint=f"Did you mean {near[0]!r}" if near else f"Known are {', '.join(known)}",
            )
    try:
        parsed = TypeAdapter(cls).validate_python(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        # Of several that do not go together: the input is all of them, keys included.
        if not first["loc"]:
            raise ConfigError(first["msg"].removeprefix("Value error, "), where=source) from None
        key = ".".join(str(part) for part in first["loc"])
        raise ConfigError(
            f"{key} is wrong", where=source, got=repr(first["input"]), hint=first["msg"]
        ) from None
    for key, value in values.items():
        # pydantic takes yes for 1, which nobody means who writes `batch_size: yes`.
        if isinstance(value, bool) and type(getattr(parsed, key)) in (int, float):
            raise ConfigError(
                f"{key} is wrong", where=source, got=str(value).lower(), expected="a number"
            )
    return parsed


def load_yaml(uri: str) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        StorageError: The file cannot be read.
        ConfigError: It is no YAML, or not a mapping.
    """
    import yaml

    try:
        values = yaml.safe_load(storage.read_bytes(uri))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            "Not valid YAML",
            where=f"{uri}{place}",
            got=" ".join(problem.split()),
            hint="Correct it there, or in the line before; a setting is written as `name: value`",
        ) from None
    if not isinstance(values, dict):
        raise ConfigError(
            "Not a settings file",
            where=uri,
            got="nothing" if values is None else repr(values)[:40],
            expected="a mapping of key: value",
        )
    return values


def _field_names(cls: type[Any]) -> list[str]:
    if is_dataclass(cls):
        return [field.name for field in fields(cls)]
    return list(cls.model_fields)

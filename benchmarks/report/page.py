"""All results of a folder as one HTML page without scripts and network, and their charts as PNG beside it.

jinja2 and matplotlib are imported by the functions that draw: some benchmarks run where neither is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from appliance.errors import ConfigError
from appliance.evaluation.report.chart import Chart
from benchmarks.report.load_charts import load_charts
from benchmarks.report.rounds_charts import rounds_charts
from benchmarks.report.scaling_charts import scaling_charts

PAGE = "report.html"
_ABSENT = "–"
_LONGEST_LIST = 12
_SURROUNDINGS = ("benchmark", "command", "date", "commit", "machine", "versions")


def can_draw() -> bool:
    """Whether what draws is installed."""
    return all(find_spec(name) is not None for name in ("matplotlib", "jinja2"))


def write_page(folder: Path) -> Path:
    """Draws what lies in a folder.

    Args:
        folder: With results as `write_result` writes them.

    Returns:
        The page.

    Raises:
        ConfigError: There are none.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    paths = sorted(folder.glob("*.json"))
    documents = [document for path in paths if (document := _read(path)) is not None]
    if not documents:
        raise ConfigError("No results of benchmarks in the folder", where=folder)
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined
    )
    sections = []
    for document in documents:
        charts = charts_of(document)
        for chart in charts:
            (folder / f"{document['benchmark']}-{chart.name}.png").write_bytes(chart.png)
        sections.append(
            {
                "name": document["benchmark"],
                "void": document.get("void", []),
                "surroundings": _surroundings(document),
                "rows": list(headlines(document)),
                "steps": document["steps"] if _is_load(document) else [],
                "charts": charts,
            }
        )
    created = datetime.now(UTC).isoformat(sep=" ", timespec="minutes")
    text = environment.get_template("page.html").render(sections=sections, created=created)
    page = folder / PAGE
    page.write_text(text, encoding="utf-8")
    return page


def charts_of(document: Mapping[str, Any]) -> list[Chart]:
    """The charts that fit what was measured."""
    if _is_load(document):
        return load_charts(document)
    return [*rounds_charts(document), *scaling_charts(document)]


def headlines(document: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values of what stands at the top of a document, and one level below."""
    for name, value in document.items():
        if name in (*_SURROUNDINGS, "void") or (name == "steps" and _is_load(document)):
            continue  # the page has its own place for those
        if isinstance(value, Mapping):
            for inner, below in value.items():
                if isinstance(below, Mapping) and "median" in below:
                    yield (
                        f"{name}: {inner}",
                        f"{_text(below['median'])} of {_text(below['rounds'])}",
                    )
                elif not isinstance(below, Mapping):
                    yield f"{name}: {inner}", _text(below)
        elif not isinstance(value, list) or not any(isinstance(one, Mapping) for one in value):
            yield name, _text(value)


def _is_load(document: Mapping[str, Any]) -> bool:
    return "steps" in document and "objective_ms" in document


def _read(path: Path) -> dict[str, Any] | None:
    """A result, or None where the file is something else."""
    try:
        document = json.loads(path.read_text())
    except ValueError:
        return None
    is_result = isinstance(document, dict) and set(_SURROUNDINGS) <= set(document)
    return document if is_result else None


def _surroundings(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    load = ", ".join(map(str, machine["load_average_before"]))
    return (
        f"{document['command']} · {document['date']} · commit {document['commit']} · {machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, load before {load}"
    )


def _text(value: Any) -> str:
    if value is None:
        return _ABSENT
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        if not value:
            return "none"
        more = ", ..." if len(value) > _LONGEST_LIST else ""
        return ", ".join(_text(one) for one in value[:_LONGEST_LIST]) + more
    return str(value)

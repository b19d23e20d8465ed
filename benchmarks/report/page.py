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
from benchmarks.report.rows import headlines, missed_because, sides_table
from benchmarks.report.scaling_charts import scaling_charts

PAGE = "report.html"
_MACHINE = {"processor", "cores", "memory_gib", "load_average_before"}
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
                "warnings": list(_warnings(document)),
                "surroundings": _surroundings(document),
                "rows": list(headlines(document, left_out(document))),
                "sides": sides_table(document),
                "steps": _steps(document) if _is_load(document) else [],
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


def left_out(document: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a document is no row of its own, as it has another place on the page."""
    tables = [name for name in ("steps",) if _is_load(document)]
    tables += ["sides"] if isinstance(document.get("sides"), Mapping) else []
    return (*_SURROUNDINGS, "void", "finished", "quick", *tables)


def _warnings(document: Mapping[str, Any]) -> Iterator[str]:
    yield from (f"Void: {reason}" for reason in document.get("void", []))
    if not document.get("finished", True):
        yield "Unfinished: the run was stopped, or goes on"
    if document.get("quick"):
        yield "Measured with --quick: that shows that it runs; these are no figures to go by"


def _steps(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {**step, "because": [f"{count:,} {reason}" for reason, count in missed_because(step)]}
        for step in document["steps"]
    ]


def _is_load(document: Mapping[str, Any]) -> bool:
    return "steps" in document and "objective_ms" in document


def _read(path: Path) -> dict[str, Any] | None:
    """A result, or None where the file is something else."""
    try:
        document = json.loads(path.read_text())
    except ValueError:
        return None
    is_result = isinstance(document, dict) and set(_SURROUNDINGS) <= set(document)
    return document if is_result and _MACHINE <= set(document["machine"]) else None


def _surroundings(document: Mapping[str, Any]) -> str:
    machine = document["machine"]
    load = ", ".join(map(str, machine["load_average_before"]))
    # Before results said whether they are finished, that was the load at their end.
    when = "before" if "finished" in document else "at the end"
    return (
        f"{document['command']} · {document['date']} · commit {document['commit']} · {machine['processor']}, "
        f"{machine['cores']} cores, {machine['memory_gib']} GiB, load {when} {load}"
    )

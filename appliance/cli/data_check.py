"""`appliance data check`: what is wrong with annotated pictures, and a repaired copy of them."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from appliance.cli.options import FormatOption, ImagesOption, Json
from appliance.cli.tables import print_json

if TYPE_CHECKING:
    from appliance.annotations.checks.repairs import Repair
    from appliance.annotations.checks.survey import Survey

MOST_SHOWN_OF_A_KIND = 10

DataArgument = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="Folder or file of annotated pictures in any format, divided into parts or not.",
    ),
]
LabelsOption = Annotated[
    str | None,
    typer.Option("--labels", metavar="A,B,...", help="Class names, with commas between."),
]


def check(
    data: DataArgument,
    fix: Annotated[
        str | None,
        typer.Option(metavar="OUT", help="Write a repaired copy to this new or empty folder."),
    ] = None,
    labels: LabelsOption = None,
    min_examples: Annotated[
        int, typer.Option(min=0, help="Warn of classes with fewer objects to learn from.")
    ] = 5,
    input_side: Annotated[
        int | None,
        typer.Option(
            metavar="PX", help="Shorter side of the model's input; default the default's."
        ),
    ] = None,
    images: ImagesOption = None,
    format_: FormatOption = "auto",
    json: Json = False,
) -> None:
    """List defects that break or spoil training; exit code 1 when there are errors.

    With --fix, the exit code is 1 when errors remain in the repaired copy, or a whole part is not in it.

    Example: appliance data check fridge/ --fix fridge-repaired/
    """
    from appliance.annotations.checks.findings import count_by_severity
    from appliance.annotations.checks.repairs import CODES_OF_LOST_PARTS, write_repaired
    from appliance.annotations.checks.survey import CheckConfig, survey_dataset
    from appliance.annotations.new_folder import check_new_folder

    config = CheckConfig(format_, names_in(labels), min_examples, input_side, images_root=images)
    if fix is not None:
        check_new_folder(fix, not_inside=data)
    survey = survey_dataset(data, config=config)
    document = {"data": data, **_survey_json(survey), "repair": None}
    if not json:
        _print_survey(data, survey)
    decides, lost = survey, list[str]()
    if fix is not None:
        repair = write_repaired(survey, data, fix, config=config)
        decides = survey_dataset(
            fix, config=replace(config, format=repair.format, images_root=None)
        )
        document["repair"] = _repair_json(repair, decides)
        if not json:
            _print_repair(repair, decides)
        left_out = [change for change in repair.changes if change.code in CODES_OF_LOST_PARTS]
        lost = [change.part for change in left_out]
        document["repair"]["parts_lost"] = lost
        if lost:
            parts = ", ".join(f"{change.part} [{change.code}]" for change in left_out)
            print(f"warning: not in the copy: {parts}", file=sys.stderr)
    if json:
        print_json(document)
    raise typer.Exit(1 if lost or count_by_severity(decides.findings)["error"] else 0)


def names_in(labels: str | None) -> tuple[str, ...] | None:
    """The class names of an option, None where it is not given."""
    if labels is None:
        return None
    return tuple(name for name in (text.strip() for text in labels.split(",")) if name)


def name_of(data: str) -> str:
    """What to call data in headings: the last part of its address."""
    address = data.partition("?")[0]
    return PurePath(address if "://" in address else os.path.abspath(address)).name


class _Coded(Protocol):
    @property
    def code(self) -> str: ...


def _print_survey(data: str, survey: Survey) -> None:
    from appliance.annotations.checks.findings import DEFECTS, count_by_code, counted

    _print_some(survey.findings)
    counts = count_by_code(survey.findings)
    if counts:
        print()
    for code, count in counts.items():
        number = counted(count, DEFECTS[code].severity)
        print(f"{code:<27} {number:>14}   {DEFECTS[code].meaning}")
    if counts:
        print()
    parts = ", ".join(
        f"{name}: {counted(part.pictures, 'usable picture')} with {counted(part.objects, 'object')}"
        for name, part in survey.parts.items()
    )
    print(f"{_totals(survey)} in {data} ({parts})")


def _print_repair(repair: Repair, copy: Survey) -> None:
    from appliance.annotations.checks.findings import counted
    from appliance.annotations.checks.repairs import CHANGES_FILE

    print()
    _print_some(repair.changes)
    parts = ", ".join(f"{name}: {count:,}" for name, count in repair.pictures.items())
    pictures = counted(sum(repair.pictures.values()), "picture")
    print(f"Wrote {pictures} to {repair.out} ({parts})")
    changes = counted(len(repair.changes), "change")
    print(f"{changes}, listed in {repair.out.rstrip('/')}/{CHANGES_FILE}")
    print(f"{_totals(copy)} left in the repaired copy")


def _print_some(items: Sequence[_Coded]) -> None:
    """Prints the first of each kind: a million tiny objects are one message, not a million."""
    shown: dict[str, int] = {}
    for item in items:
        shown[item.code] = shown.get(item.code, 0) + 1
        if shown[item.code] <= MOST_SHOWN_OF_A_KIND:
            print(item)
    for code, count in shown.items():
        if count > MOST_SHOWN_OF_A_KIND:
            print(f"... and {count - MOST_SHOWN_OF_A_KIND:,} more of {code}; --json lists all")


def _totals(survey: Survey) -> str:
    from appliance.annotations.checks.findings import count_by_severity, counted

    counts = count_by_severity(survey.findings)
    return f"{counted(counts['error'], 'error')}, {counted(counts['warning'], 'warning')}"


def _survey_json(survey: Survey) -> dict[str, Any]:
    from appliance.annotations.checks.findings import count_by_code, count_by_severity

    severities = count_by_severity(survey.findings)
    return {
        "parts": {
            name: {
                "folder": part.folder,
                "format": None if part.source is None else part.source.format,
                "pictures": part.pictures,
                "negatives": part.negatives,
                "objects": part.objects,
            }
            for name, part in survey.parts.items()
        },
        "errors": severities["error"],
        "warnings": severities["warning"],
        "by_code": count_by_code(survey.findings),
        "findings": [finding.to_json() for finding in survey.findings],
    }


def _repair_json(repair: Repair, copy: Survey) -> dict[str, Any]:
    return {
        "out": repair.out,
        "format": repair.format,
        "pictures": repair.pictures,
        "changes": [change.to_json() for change in repair.changes],
        "left": _survey_json(copy),
    }

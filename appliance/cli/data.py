"""`appliance data`: make, check, repair, describe, show and convert annotated pictures."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from appliance.cli.data_augment import augment
from appliance.cli.data_check import (
    DataArgument,
    LabelsOption,
    check,
    name_of,
    names_in,
)
from appliance.cli.data_convert import convert
from appliance.cli.options import FormatOption, ImagesOption, Json
from appliance.cli.tables import print_json

app = typer.Typer(no_args_is_help=True, help="Make, check, see and convert annotated pictures.")
app.command("check")(check)
app.command("convert")(convert)
app.command("augment")(augment)


@app.command()
def sample(
    out: Annotated[str, typer.Argument(metavar="OUT", help="Folder to write train/ and test/ to.")],
    train: Annotated[int, typer.Option(min=1, help="Pictures for training.")] = 120,
    test: Annotated[int, typer.Option(min=1, help="Pictures for testing.")] = 20,
    seed: Annotated[int, typer.Option(help="Equal seeds draw equal pictures.")] = 0,
) -> None:
    """Draw shelf scenes of eight grocery classes as Pascal VOC folders."""
    from appliance.annotations.checks.findings import counted
    from appliance.annotations.new_folder import check_new_folder
    from appliance.annotations.samples.scenes import make_sample_dataset

    check_new_folder(out)
    make_sample_dataset(out, train=train, test=test, seed=seed)
    print(
        f"Wrote {counted(train, 'training picture')} and {counted(test, 'test picture')} to {out}"
    )


@app.command()
def stats(
    data: DataArgument,
    charts: Annotated[
        str | None, typer.Option(metavar="OUT", help="Folder to write charts to, as PNG.")
    ] = None,
    format_: FormatOption = "auto",
    images: ImagesOption = None,
    json: Json = False,
) -> None:
    """Count objects and pictures, measure boxes, and draw charts of them."""
    from appliance import storage
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.annotations.formats.opening import parts_of
    from appliance.annotations.statistics_charts import write_charts

    name = name_of(data)
    document: dict[str, Any] = {"data": data, "parts": {}, "charts": []}
    for part, place in (parts_of(data, format_) or {"": data}).items():
        title = f"{name} {part}".strip()
        statistics = ObjectDetectionDataset.read(
            place, title, format_, images_root=images
        ).statistics()
        written = []
        if charts is not None:
            folder = storage.join(charts, part) if part else charts
            written = write_charts(statistics, title, folder)
        document["parts"][part or "dataset"] = statistics.to_json()
        document["charts"] += written
        if not json:
            print(statistics.describe(title), statistics.describe_more(), sep="\n")
            print(*(f"Chart: {path}" for path in written), "", sep="\n")
    if json:
        print_json(document)


@app.command()
def show(
    data: DataArgument,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="SHEET", help="Picture to write: .png or .jpg.")
    ],
    count: Annotated[int, typer.Option(help="Pictures on the sheet, at most.")] = 12,
    seed: Annotated[
        int, typer.Option(help="Decides which pictures; equal seeds, equal sheets.")
    ] = 0,
    labels: LabelsOption = None,
    columns: Annotated[int | None, typer.Option(help="Pictures side by side.")] = None,
    format_: FormatOption = "auto",
    images: ImagesOption = None,
) -> None:
    """Draw some of the pictures with their boxes on one sheet.

    Example: appliance data show fridge/ -o sheet.png --labels milk,egg
    """
    from appliance.annotations.contact_sheet import draw_sheet
    from appliance.annotations.formats.opening import open_source, parts_of
    from appliance.images.drawing import save_picture

    places = parts_of(data, format_) or {"": data}
    sources = {
        part: open_source(place, format_, images_root=images) for part, place in places.items()
    }
    sheet = draw_sheet(
        sources, name_of(data), count=count, seed=seed, labels=names_in(labels), columns=columns
    )
    save_picture(sheet.picture, out)
    print(f"Wrote {out}")

"""`appliance data augment`: what a training configuration does to pictures, seen before it is trained with."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from appliance.cli.data_check import name_of
from appliance.cli.options import FormatOption, ImagesOption, Json, OnePartArgument
from appliance.cli.tables import print_json
from appliance.cli.training_settings import ConfigOption, training_settings

_Probability = Annotated[float | None, typer.Option(help="Probability, 0 to 1.")]


def augment(
    data: OnePartArgument,
    out: Annotated[
        str, typer.Option("--out", "-o", metavar="SHEET", help="Picture to write: .png or .jpg.")
    ],
    config: ConfigOption = None,
    init: Annotated[
        str, typer.Option(help="Starting weights: their recipe holds what is not set.")
    ] = "none",
    count: Annotated[int, typer.Option(help="Pictures on the sheet, at most.")] = 4,
    variants: Annotated[int, typer.Option(help="Random variants of each picture.")] = 4,
    seed: Annotated[
        int | None,
        typer.Option(help="Decides which pictures and variants; equal seeds, equal sheets."),
    ] = None,
    shorter_side: Annotated[
        int | None, typer.Option(help="Pictures enter the network with this shorter side, pixels.")
    ] = None,
    flip: _Probability = None,
    flip_vertical: _Probability = None,
    crop: _Probability = None,
    crop_smallest: Annotated[
        float | None, typer.Option(help="Sides of the smallest crop, as a share.")
    ] = None,
    scale_jitter: Annotated[
        float | None, typer.Option(help="Scale by 1 - this to 1 + this.")
    ] = None,
    rotate_degrees: Annotated[float | None, typer.Option(help="Largest angle, to 45.")] = None,
    min_visible: Annotated[
        float | None, typer.Option(help="Objects with a smaller share left are dropped.")
    ] = None,
    colour_jitter: Annotated[
        float | None, typer.Option(help="Of brightness, contrast and saturation, 0 to 1.")
    ] = None,
    hue_jitter: Annotated[float | None, typer.Option(help="Of the hue, 0 to 0.5.")] = None,
    blur: _Probability = None,
    mosaic: _Probability = None,
    format_: FormatOption = "auto",
    images: ImagesOption = None,
    json: Json = False,
) -> None:
    """Draw pictures and random variants of them with their boxes, as training would see them.

    Example: appliance data augment fridge/train -o sheet.png --crop 0.5 --rotate-degrees 8
    """
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.images.drawing import save_picture
    from appliance.model.spec import ModelSpec
    from appliance.training.augmentation_sheet import draw_augmentation_sheet

    flags = {
        "seed": seed,
        "flip": flip,
        "flip_vertical": flip_vertical,
        "crop": crop,
        "crop_smallest": crop_smallest,
        "scale_jitter": scale_jitter,
        "rotate_degrees": rotate_degrees,
        "min_visible": min_visible,
        "colour_jitter": colour_jitter,
        "hue_jitter": hue_jitter,
        "blur": blur,
        "mosaic": mosaic,
    }
    settings = training_settings(init, config, flags)
    dataset = ObjectDetectionDataset.read(data, name_of(data), format_, images_root=images)
    sides: dict[str, Any] = {} if shorter_side is None else {"shorter_side_px": shorter_side}
    sheet, kept, dropped = draw_augmentation_sheet(
        dataset,
        settings,
        count=count,
        variants=variants,
        spec=ModelSpec.of(dataset.label_map, **sides),
    )
    save_picture(sheet, out)
    if json:
        print_json({"sheet": out, "objects_kept": kept, "objects_dropped": dropped})
        return
    print(f"Wrote {out}: {kept:,} objects kept, {dropped:,} dropped")

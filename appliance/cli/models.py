"""`appliance models`: what can be done with models besides using them; here, export to other formats."""

from __future__ import annotations

from dataclasses import asdict
from enum import StrEnum
from pathlib import PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli import model_listing, model_versions
from appliance.cli.options import Json, ModelArgument, RegistryOption
from appliance.cli.tables import print_json, print_table

if TYPE_CHECKING:
    from appliance.images.decoding import DecodedImage

app = typer.Typer(help="Keep versions of models, export model files.", no_args_is_help=True)
app.command("add")(model_versions.add)
app.command("list")(model_listing.list_models)
app.command("show")(model_listing.show)
app.command("promote")(model_versions.promote)
app.command("rollback")(model_versions.rollback)
app.command("delete")(model_versions.delete)


class ExportFormat(StrEnum):
    """What other programs can run."""

    ONNX = "onnx"
    TORCHSCRIPT = "torchscript"


_ENDINGS = {ExportFormat.ONNX: ".onnx", ExportFormat.TORCHSCRIPT: ".pt"}
_PICTURES = 10


@app.callback()
def models() -> None:
    """Keep versions of models in a registry, and export model files to other formats."""


@app.command("export")
def export(
    model: ModelArgument,
    file_format: Annotated[
        ExportFormat, typer.Option("--format", help="onnx or torchscript.")
    ] = ExportFormat.ONNX,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            "-o",
            help="File to write; default the model's name, beside it, of the registry NAME-VERSION here.",
        ),
    ] = None,
    pictures: Annotated[
        str | None,
        typer.Option(help="Folder of pictures to check the export on, instead of drawn ones."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier export.")
    ] = False,
    registry: RegistryOption = None,
    json: Json = False,
) -> None:
    """Write a model as ONNX or TorchScript; it is run on ten pictures before it counts as done.

    Example: appliance models export fridge.safetensors --format onnx
    """
    from appliance.model.address import ModelAddress
    from appliance.model.export.files import export_onnx, export_torchscript, is_exported
    from appliance.registry.registry import find_model
    from appliance.storage.output_place import OutputKind, check_output_place

    ending = _ENDINGS[file_format]
    model = find_model(model, registry)
    address = ModelAddress.parse(model)
    own = address.uri if address.name is None else f"{address.name}-{address.version}.safetensors"
    target = out or str(PurePath(own).with_suffix(ending))
    kind = OutputKind("detector graph", f"model{ending}", is_exported)
    check_output_place(target, kind, overwrite=overwrite)
    write = export_onnx if file_format is ExportFormat.ONNX else export_torchscript
    exported = write(model, target, pictures=None if pictures is None else _read(pictures))
    if json:
        print_json(asdict(exported))
        return
    parity = exported.parity
    print_table(
        ("what", "value"),
        [
            ("file", exported.path),
            ("size, MB", exported.size_bytes / 1e6),
            ("pictures compared", parity.pictures),
            ("detections compared", parity.detections),
            ("without a counterpart", parity.unmatched),
            ("  but for those that rounding decides", parity.rounded),
            ("largest difference of a box, pixels", parity.max_box_difference_px),
            ("largest difference of a score", f"{parity.max_score_difference:.1e}"),
        ],
    )


def _read(folder: str) -> list[DecodedImage]:
    from appliance import storage
    from appliance.errors import StorageError
    from appliance.images.decoding import EXTENSIONS, decode_image

    uris = storage.list_files(folder, EXTENSIONS)[:_PICTURES]
    if not uris:
        raise StorageError("No pictures there", where=folder, expected=f"{_PICTURES} of them")
    return [decode_image(storage.read_bytes(uri), source=uri) for uri in uris]

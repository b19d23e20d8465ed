"""`appliance tune`: many short trainings with different settings; the best ones as YAML."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import Annotated

import typer

from appliance.cli.options import (
    AddressOption,
    FormatOption,
    ImagesOption,
    Json,
    OnePartArgument,
    Quiet,
    RegistryOption,
)
from appliance.cli.plan_view import show_plan
from appliance.cli.registering import find_init
from appliance.cli.tables import cell, print_json, print_table
from appliance.cli.training_data import read_training_data
from appliance.cli.training_options import (
    ArchitectureOption,
    BackboneOption,
    BatchSizeOption,
    CheckOption,
    EpochsOption,
    InitOption,
    ShorterSideOption,
    StepsOption,
    ValidationOption,
)
from appliance.cli.training_settings import ConfigOption, SetOption, read_settings


def tune(
    data: OnePartArgument,
    ranges: Annotated[
        list[str],
        typer.Option(
            "--range",
            metavar="NAME=LOW:HIGH[:log]",
            help="Values of a setting to try, or NAME=A,B,C; again for more settings.",
        ),
    ],
    trials: Annotated[int, typer.Option(min=1, help="Sets of values to try.")] = 10,
    parallel: Annotated[
        int | None,
        typer.Option(min=1, help="Trials at a time; default one for two CPU cores, or a GPU."),
    ] = None,
    out: Annotated[
        str, typer.Option(help="YAML file for the best settings; one that is there stays.")
    ] = "best.yaml",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the settings file at --out.")
    ] = False,
    validation: ValidationOption = None,
    hold_out: Annotated[
        float, typer.Option(help="Without --validation: share of DATA to measure on, 0..1.")
    ] = 0.2,
    data_format: FormatOption = "auto",
    images: ImagesOption = None,
    init: InitOption = "none",
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    architecture: ArchitectureOption = None,
    backbone: BackboneOption = None,
    shorter_side: ShorterSideOption = None,
    use_gpu: Annotated[bool, typer.Option("--gpu", help="One GPU for each trial.")] = False,
    seed: Annotated[int, typer.Option(help="Of the values tried and of what is held out.")] = 0,
    config: ConfigOption = None,
    assignments: SetOption = None,
    registry: RegistryOption = None,
    check: CheckOption = True,
    address: AddressOption = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Search for good settings with Ray Tune: the worse trials are stopped early (ASHA).

    Example: appliance tune data/train --range learning_rate=1e-4:1e-2:log --trials 10
    """
    from appliance import storage
    from appliance.errors import ConfigError
    from appliance.on_ray.cluster import connect
    from appliance.on_ray.tuning import Search, check_search, search_on_ray
    from appliance.on_ray.workers import Workers, refuse_without_gpus
    from appliance.storage.output_place import OutputKind, check_output_place
    from appliance.training.plan import plan_training
    from appliance.training.search import SearchRange, is_settings_document, settings_document

    if not 0 < hold_out < 1:
        raise ConfigError(
            "--hold-out is out of range", got=hold_out, expected="a share above 0 and below 1"
        )
    search = Search(
        tuple(SearchRange.parse(text) for text in ranges), trials, parallel, use_gpu, seed
    )
    found_init = find_init(init, registry)
    settings = read_settings(
        found_init,
        config,
        {"steps": steps, "epochs": epochs, "batch_size": batch_size},
        network_flags={
            "architecture": architecture,
            "backbone": backbone,
            "shorter_side_px": shorter_side,
        },
        assignments=assignments or (),
    )
    refuse_without_gpus(Workers(use_gpu=use_gpu), address)
    kind = OutputKind("settings file", "best.yaml", is_settings_document)
    check_output_place(out, kind, overwrite=overwrite)
    storage.check_writable(out)
    dataset, held_out = read_training_data(
        data, validation, data_format=data_format, images_root=images, check=check
    )
    if held_out is None:
        dataset, held_out = dataset.split(1 - hold_out, seed=seed)
    plan = plan_training(
        dataset.label_map,
        images=len(dataset),
        dataset_digest=dataset.digest(),
        config=settings.training,
        init=found_init,
        pictures=dataset.images,
        validation_images=len(held_out),
        open_settings=settings.open_settings,
        device="auto" if use_gpu else "cpu",
        **settings.network,
    )
    if not quiet:
        show_plan(plan)
    check_search(plan, held_out.images, search)
    connect(address)
    found = search_on_ray(plan, dataset.images, held_out.images, search, progress=not quiet)
    best = found.best
    wished = {
        **settings.network,
        **{
            name: value
            for name, value in settings.training.to_json().items()
            if name not in (*settings.open_settings, "epochs")
        },
        "steps": plan.steps,
    }
    command = ["appliance", "train", data, "--init", init, "--config", out]
    # The best values are those for the best step of a validation.
    command += [] if validation is None else ["--validation", validation]
    command += [] if data_format == "auto" else ["--format", data_format]
    command += [] if images is None else ["--images", images]
    command += [] if registry is None else ["--registry", registry]
    text = settings_document(best, wished, metric=found.metric, command=shlex.join(command))
    storage.write_bytes(out, text.encode())
    if json:
        print_json({"config": out, "best": asdict(best), **found.to_json()})
        return
    names = [searched.name for searched in search.ranges]
    print_table(
        ("trial", *names, found.metric, "at step", "steps", "seconds"),
        [
            (
                str(trial.number),
                *(_value(trial.values[name]) for name in names),
                *(trial.best, trial.best_step, trial.step, trial.seconds),
            )
            for trial in found.trials
        ],
    )
    for trial in found.trials:
        if trial.error:
            print(f"Trial {trial.number} failed: {trial.error}")
    print(f"Wrote {out}. Train with it: {shlex.join(command)}")


def _value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else cell(value)

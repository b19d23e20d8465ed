"""`appliance train`: a folder of annotated pictures in, a model file out."""

from __future__ import annotations

import sys
import time
import uuid
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated

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
from appliance.cli.plan_view import dry_run_rows, show_plan
from appliance.cli.promoting import MinGainOption, PromoteOption, Promotion, TestOption
from appliance.cli.registering import RegisterOption, check_register, find_init, register
from appliance.cli.tables import print_json, print_table
from appliance.cli.training_data import read_training_data
from appliance.cli.training_options import (
    ArchitectureOption,
    BackboneOption,
    BatchSizeOption,
    CheckOption,
    EpochsOption,
    InitOption,
    SeedOption,
    ShorterSideOption,
    StepsOption,
    ValidationOption,
)
from appliance.cli.training_report import TrainingReport
from appliance.cli.training_settings import ConfigOption, SetOption, read_settings
from appliance.cli.trainings import OnOption, init_for_service, refuse_with_on, train_on

if TYPE_CHECKING:
    from appliance.training.plan import TrainingPlan


def train(
    data: OnePartArgument,
    out: Annotated[
        str, typer.Option(help="Model file to write; one that is there stays.")
    ] = "model.safetensors",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the model file at --out.")
    ] = False,
    validation: ValidationOption = None,
    data_format: FormatOption = "auto",
    images: ImagesOption = None,
    init: InitOption = "none",
    steps: StepsOption = None,
    epochs: EpochsOption = None,
    batch_size: BatchSizeOption = None,
    accumulation_steps: Annotated[
        int | None,
        typer.Option(help="Parts in which a step computes its pictures; default by the memory."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    learning_rate_scaling: Annotated[
        str | None, typer.Option(help="With the batch size: none, linear or sqrt; default none.")
    ] = None,
    schedule: Annotated[
        str | None, typer.Option(help="cosine, one_cycle or constant; default cosine.")
    ] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    ema_decay: Annotated[
        float | None, typer.Option(help="Average the weights over the steps, 0..1; default not.")
    ] = None,
    frozen_stages: Annotated[
        int | None, typer.Option(help="First stages of the backbone that stay as they are, 0 to 3.")
    ] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, float32, bfloat16 or float16; default auto.")
    ] = None,
    skip_bad_batches: Annotated[
        int | None,
        typer.Option(help="Go on so often after a loss that is not finite; default never."),
    ] = None,
    architecture: ArchitectureOption = None,
    backbone: BackboneOption = None,
    shorter_side: ShorterSideOption = None,
    validate_every: Annotated[
        int | None, typer.Option(help="Steps between validations; default a tenth of the run.")
    ] = None,
    validation_metric: Annotated[
        str | None, typer.Option(help="map_50 or coco_ap; default map_50.")
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(help="Stop after so many validations without a better one; default never."),
    ] = None,
    workers: Annotated[
        str, typer.Option(metavar="N|MIN:MAX", help="Ray Train workers; MIN:MAX is elastic.")
    ] = "1",
    use_gpu: Annotated[bool, typer.Option("--gpu", help="One GPU for each worker.")] = False,
    loader_workers: Annotated[
        int | None, typer.Option(help="Processes of each worker that decode ahead; default 0.")
    ] = None,
    seed: SeedOption = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; default 100.")
    ] = None,
    keep_checkpoints: Annotated[
        int | None, typer.Option(help="So many of the last are kept, and the best; default 2.")
    ] = None,
    config: ConfigOption = None,
    assignments: SetOption = None,
    run_dir: Annotated[
        str | None, typer.Option(help="Folder for metrics and checkpoints; default below runs/.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run-dir.")
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show plan, time and memory from ten steps; write nothing."),
    ] = False,
    mlflow: Annotated[
        str | None, typer.Option(metavar="URI", help="Also show the run in the MLflow there.")
    ] = None,
    registered_name: RegisterOption = None,
    promote: PromoteOption = None,
    test: TestOption = None,
    min_gain: MinGainOption = 0.0,
    registry: RegistryOption = None,
    check: CheckOption = True,
    address: AddressOption = None,
    on: OnOption = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a detector with Ray Train.

    Example: appliance train data/train --init mobilenet_v2.safetensors --out fridge.safetensors
    """
    from appliance import storage
    from appliance.errors import ConfigError, TrainingStopped
    from appliance.model.model_file import is_model_file
    from appliance.on_ray.cluster import connect
    from appliance.on_ray.run_driver import StopWish
    from appliance.on_ray.training import Workers, check_run, train_to_file
    from appliance.on_ray.workers import refuse_without_gpus
    from appliance.storage.output_place import OutputKind, check_output_place
    from appliance.training.mlflow_tracking import tracked
    from appliance.training.plan import plan_training
    from appliance.training.run_folder import RunFolder, check_free
    from appliance.training.runs import has_written, recorded

    if resume and run_dir is None:
        raise ConfigError("--resume needs the folder of the run", hint="Add --run-dir")
    promotion = Promotion.of(
        promote,
        test,
        min_gain,
        name=registered_name,
        data_format=data_format,
        images_root=images,
        registry=registry,
    )
    on_workers = Workers.parse(workers, use_gpu=use_gpu)
    init = init if on else find_init(init, registry)
    settings = read_settings(
        init,
        config,
        {
            "steps": steps,
            "epochs": epochs,
            "batch_size": batch_size,
            "accumulation_steps": accumulation_steps,
            "learning_rate": learning_rate,
            "learning_rate_scaling": learning_rate_scaling,
            "schedule": schedule,
            "optimizer": optimizer,
            "ema_decay": ema_decay,
            "frozen_stages": frozen_stages,
            "precision": precision,
            "skip_bad_batches": skip_bad_batches,
            "validate_every_steps": validate_every,
            "validation_metric": validation_metric,
            "patience": patience,
            "loader_workers": loader_workers,
            "seed": seed,
            "checkpoint_every_steps": checkpoint_every,
            "keep_checkpoints": keep_checkpoints,
        },
        network_flags={
            "architecture": architecture,
            "backbone": backbone,
            "shorter_side_px": shorter_side,
        },
        assignments=assignments or (),
    )
    if on is not None:
        refuse_with_on(
            out=out != "model.safetensors",
            overwrite=overwrite,
            run_dir=run_dir,
            resume=resume,
            dry_run=dry_run,
            mlflow=mlflow,
            registry=registry,
            address=address,
        )
        request = {
            "data": storage.absolute(data),
            "register": registered_name,
            "init": init_for_service(init),
            "settings": dict(settings.wished),
            "validation": validation and storage.absolute(validation),
            "format": data_format,
            "images": images and storage.absolute(images),
            "workers": str(on_workers),
            "gpu": use_gpu,
            "check": check,
            "promote": promote,
            "test": test and storage.absolute(test),
            "min_gain": min_gain,
        }
        train_on(on, request, quiet=quiet, json=json)
        return
    refuse_without_gpus(on_workers, address)
    if not dry_run:
        # Here, because to look at the pictures may take minutes.
        if run_dir is not None:
            check_free(RunFolder(run_dir), resume=resume)
        kind = OutputKind("model file", "model.safetensors", is_model_file)
        is_own = partial(has_written, run_dir) if resume and run_dir is not None else None
        check_output_place(out, kind, overwrite=overwrite, is_own=is_own)
        check_register(registered_name, registry)
    dataset, held_out = read_training_data(
        data, validation, data_format=data_format, images_root=images, check=check
    )
    if promotion is not None:
        promotion.check(dataset.label_map.names)
    validation_images = () if held_out is None else held_out.images
    device = "auto" if use_gpu else "cpu"
    plan = plan_training(
        dataset.label_map,
        images=len(dataset),
        dataset_digest=dataset.digest(),
        config=settings.training,
        init=init,
        pictures=dataset.images,
        validation_images=len(validation_images),
        open_settings=settings.open_settings,
        workers=on_workers.count,
        device=device,
        **settings.network,
    )
    if resume and "accumulation_steps" in settings.open_settings:
        plan = _in_parts_as_before(plan, str(run_dir))
    on_workers.check_batch(plan.config)
    if not quiet:
        show_plan(plan)
    if dry_run:
        from appliance.training import dry_run as dry

        if not quiet:
            print(f"Measuring {dry.STEPS} steps ...", file=sys.stderr)
        found = dry.dry_run(
            plan,
            dataset.images,
            validation=validation_images,
            device=device,
            workers=on_workers.count,
        )
        if json:
            print_json({**asdict(found), "plan": plan.to_json()})
            return
        print_table(("dry run", "value"), dry_run_rows(found, plan))
        print("Nothing was trained or written.")
        return
    unique = f"train-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = run_dir or storage.join("runs", unique)
    check_run(plan, folder, on_workers, resume=resume, model_uri=out)
    storage.check_writable(out)
    stop = StopWish(ctrl_c=True)
    try:
        with tracked(mlflow, plan, folder), recorded(folder, out) as written:
            connect(address)
            trained = train_to_file(
                plan,
                dataset.images,
                folder,
                out,
                validation=validation_images,
                workers=on_workers,
                resume=resume,
                progress=not quiet,
                stop=stop,
            )
            written(trained.version)
    except TrainingStopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(stop.exit_code)
    number = register(registered_name, out, registry) if registered_name else None
    promoted = promotion.carry_out(number, quiet=quiet) if promotion and number else None
    report = TrainingReport(
        out, folder, plan, trained, len(dataset), registered_name, number, promoted
    )
    if json:
        print_json(report.document())
    else:
        report.show()


def _in_parts_as_before(plan: TrainingPlan, run_dir: str) -> TrainingPlan:
    """The plan with the batch divided as when the run began: other parts would round other sums.

    How much memory is free today must not change what a run that goes on learns.
    """
    from appliance.training.run_folder import RunFolder

    with RunFolder(run_dir) as folder:
        if not folder.begun():
            return plan  # that there is nothing to go on with is told later
        before = folder.read_plan().config.accumulation_steps
    return replace(plan, config=replace(plan.config, accumulation_steps=before))

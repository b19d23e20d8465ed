"""`appliance train`: a folder of annotated pictures in, a model file out."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli.options import (
    AddressOption,
    FormatOption,
    ImagesOption,
    Json,
    OnePartArgument,
    Quiet,
)
from appliance.cli.tables import print_json
from appliance.cli.training_settings import ConfigOption, training_settings
from appliance.model.spec import COMPACT


def train(
    data: OnePartArgument,
    out: Annotated[str, typer.Option(help="Model file to write.")] = "model.safetensors",
    data_format: FormatOption = "auto",
    images: ImagesOption = None,
    init: Annotated[
        str, typer.Option(help="Starting weights: none, imagenet, coco, or a file.")
    ] = "none",
    steps: Annotated[
        int | None, typer.Option(help="Optimizer steps; by default 30 pictures' worth each.")
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(help="Pictures a step over all workers; default 2, or 1 with --init."),
    ] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help="sgd or adamw.")] = None,
    precision: Annotated[
        str | None, typer.Option(help="auto, float32 or bfloat16; default auto.")
    ] = None,
    architecture: Annotated[str, typer.Option(help="Network to train.")] = COMPACT,
    backbone: Annotated[
        str | None, typer.Option(help="Backbone of the compact network; default resnet18.")
    ] = None,
    shorter_side: Annotated[
        int | None, typer.Option(help="Pictures enter the network with this shorter side, pixels.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Ray Train workers.")] = 1,
    use_gpu: Annotated[bool, typer.Option("--gpu", help="One GPU for each worker.")] = False,
    seed: Annotated[
        int | None, typer.Option(help="Of weights, order and augmentation; default 0.")
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help="Steps between checkpoints; default 100.")
    ] = None,
    config: ConfigOption = None,
    run_dir: Annotated[
        str | None, typer.Option(help="Folder for metrics and checkpoints; default below runs/.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the run in --run-dir.")
    ] = False,
    check: Annotated[
        bool, typer.Option(help="Look at every picture before training for defects.")
    ] = True,
    address: AddressOption = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Train a detector with Ray Train.

    Example: appliance train data/train --init mobilenet_v2.safetensors --out fridge.safetensors
    """
    from appliance import storage
    from appliance.annotations.checks.survey import CheckConfig, refuse_errors
    from appliance.annotations.dataset import ObjectDetectionDataset
    from appliance.annotations.formats.opening import open_source
    from appliance.errors import ConfigError, DatasetError
    from appliance.on_ray.cluster import connect
    from appliance.on_ray.training import Workers, check_run, train_to_file
    from appliance.training.plan import plan_training

    if resume and run_dir is None:
        raise ConfigError("--resume needs the folder of the run", hint="Add --run-dir")
    settings = training_settings(
        init,
        config,
        {
            "steps": steps,
            "batch_size": batch_size,
            "learning_rate": learning_rate,
            "optimizer": optimizer,
            "precision": precision,
            "seed": seed,
            "checkpoint_every_steps": checkpoint_every,
        },
    )
    if check:
        try:
            refuse_errors(
                {"train": data}, config=CheckConfig(format=data_format, images_root=images)
            )
        except DatasetError:
            # What is no single part of data, or is not there, has a sentence of its own.
            open_source(data, data_format, images_root=images)
            raise
    dataset = ObjectDetectionDataset.read(data, format=data_format, images_root=images)
    plan = plan_training(
        dataset.label_map,
        images=len(dataset),
        dataset_digest=dataset.digest(),
        config=settings,
        init=init,
        architecture=architecture,
        backbone=backbone,
        shorter_side_px=shorter_side,
    )
    unique = f"train-{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    folder = Path(run_dir) if run_dir else Path("runs") / unique
    on_workers = Workers(workers, use_gpu)
    check_run(plan, folder, on_workers, resume=resume)
    storage.check_writable(out)
    connect(address)
    trained = train_to_file(
        plan,
        dataset.images,
        folder,
        out,
        workers=on_workers,
        resume=resume,
        progress=not quiet,
    )
    document = {
        "model": out,
        "version": trained.version,
        "run_dir": str(folder),
        "steps": plan.steps,
        "images": len(dataset),
        "labels": list(plan.spec.labels),
        "train_wall_s": round(trained.wall_s, 2),
        "final_loss": trained.final_loss,
    }
    if json:
        print_json(document)
        return
    print(
        f"Wrote {out} (version {trained.version}) after {plan.steps} steps in {trained.wall_s:.0f} s."
    )
    print(f"Curves:   tensorboard --logdir {folder / 'train'}")
    print(f"Evaluate: appliance evaluate {out} TEST_DATA")
    print(f"Score:    appliance score {out} PICTURES OUTPUT")

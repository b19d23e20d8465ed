"""What `appliance train` reaches by its own defaults, and how long it takes.

    python -m benchmarks.accuracy --json
    python -m benchmarks.accuracy --only fridge --json

Two parts: sample scenes from random weights; and the fridge pictures beside the checkout, from ImageNet weights,
cross-validated, so that every picture is tested once by a model that has not seen it. Each training goes from a
folder of its own to a model file the way the command goes, in this process instead of on Ray; of the settings only
--steps can be given. Prints one line for each, then with --json one JSON document last; the same goes to
`benchmarks/results/FOLDER/NAME.json`.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.annotations.formats.voc_folder import ANNOTATIONS_DIR, IMAGE_SUBDIRECTORY
from appliance.annotations.samples.scenes import make_sample_dataset
from appliance.cli.training_data import read_training_data
from appliance.cli.training_settings import read_settings
from appliance.detector import FasterRCNN
from appliance.errors import DatasetError, StorageError
from appliance.model import model_file
from appliance.model.model_file import ModelInfo
from appliance.training.decisions import Decision
from appliance.training.plan import TrainingPlan, plan_training
from appliance.training.run import train_here
from benchmarks.commands import count, run_command
from benchmarks.measurement import write_result

SHARED_DIR = Path(__file__).resolve().parents[2] / "shared"
FRIDGE_DIR = SHARED_DIR / "data" / "fridge" / "train"
FRIDGE_INIT = SHARED_DIR / "weights" / "mobilenet_v2_imagenet.safetensors"
FOLDS = 4
TARGETS = {"map_50": 0.97, "coco_ap": 0.65, "seconds": 300.0}
"""Means over the folds that are wanted at least; the seconds are the most for the slowest fold."""
_SEED = 0
_QUICK_STEPS = 2


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.accuracy",
        description="Measures what `appliance train` reaches by its own defaults.",
    )
    parser.add_argument("--only", choices=("scenes", "fridge"), help="leave the other part out")
    parser.add_argument("--steps", type=count, help="training steps; default the command's own")
    parser.add_argument("--quick", action="store_true", help="next to no steps: shows that it runs")
    parser.add_argument(
        "--data", type=Path, default=FRIDGE_DIR, help="Pascal VOC folder instead of the fridge's"
    )
    parser.add_argument(
        "--init", type=Path, default=FRIDGE_INIT, help="starting weights of that part"
    )
    parser.add_argument("--name", default="accuracy", help="name of the result file")
    parser.add_argument("--folder", default="latest", help="folder below benchmarks/results/")
    parser.add_argument("--json", action="store_true", help="print one JSON document last")
    run_command(parser, _run)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    result: dict[str, Any] = {
        "quick": options.quick,
        "steps_given": options.steps,
        "threads": torch.get_num_threads(),
    }
    steps = _QUICK_STEPS if options.quick and options.steps is None else options.steps
    if options.only != "fridge":
        result["scenes"] = _scenes(steps, quick=options.quick)
        write_result(options.name, "benchmarks.accuracy", result, options.folder)
    if options.only != "scenes":
        absent = _absent(options.data, options.init)
        if absent is not None and options.only == "fridge":
            raise absent
        result["fridge"] = (
            cross_validate(options.data, str(options.init), steps)
            if absent is None
            else {"left_out": str(absent)}
        )
        write_result(options.name, "benchmarks.accuracy", result, options.folder)
    return result


def _absent(*paths: Path) -> StorageError | None:
    missing = [str(path) for path in paths if not path.exists()]
    if not missing:
        return None
    return StorageError(
        "The pictures or weights of the cross-validation are not there",
        where=", ".join(missing),
        hint="Name others with --data and --init, or measure --only scenes",
    )


def _scenes(steps: int | None, *, quick: bool) -> dict[str, Any]:
    """The sample scenes of the demo, from random weights."""
    with tempfile.TemporaryDirectory(prefix="appliance-accuracy-") as folder:
        data = Path(folder) / "data"
        if quick:
            make_sample_dataset(data, train=12, test=3, size_wh=(160, 120))
        else:
            make_sample_dataset(data)
        measured = train_and_test(data, "none", steps, Path(folder))
    print(f"scenes       {_line(measured)}", flush=True)
    return measured


def cross_validate(data: Path, init: str, steps: int | None = None) -> dict[str, Any]:
    """Trains and tests `FOLDS` times, so that every picture is tested by a model that has not seen it.

    Args:
        data: Annotated pictures as Pascal VOC.
        init: Starting weights.
        steps: Of each fold; None leaves them to the defaults of `appliance train`.

    Returns:
        The folds, their means, the targets and which of them are met.

    Raises:
        StorageError, DatasetError: What is wrong with the data.
        LabelError: A fold shows a class that no other fold has.
        TrainingError: See `training.engine.train`.
    """
    images = ObjectDetectionDataset.read(data).images
    folds = []
    for number, tested in enumerate(divide([image.name for image in images]), 1):
        with tempfile.TemporaryDirectory(prefix="appliance-accuracy-") as folder:
            parts = Path(folder) / "data"
            _copy([image for image in images if image.name not in tested], parts / "train")
            _copy([image for image in images if image.name in tested], parts / "test")
            measured = train_and_test(parts, init, steps, Path(folder))
        print(f"fold {number} of {FOLDS}  {_line(measured)}", flush=True)
        folds.append({"fold": number, "tested_on": tested, **measured})
    mean = {name: fmean(fold[name] for fold in folds) for name in TARGETS}
    slowest_s = max(fold["seconds"] for fold in folds)
    met = {name: mean[name] >= TARGETS[name] for name in ("map_50", "coco_ap")}
    met["seconds"] = slowest_s <= TARGETS["seconds"]
    print(f"mean         {_line(mean)}, slowest {slowest_s:.0f} s", flush=True)
    return {
        "pictures": len(images),
        "init": Path(init).name,
        "folds": folds,
        "mean": mean,
        "lowest_map_50": min(fold["map_50"] for fold in folds),
        "slowest_s": slowest_s,
        "targets": TARGETS,
        "met": met,
    }


def divide(names: Sequence[str], folds: int = FOLDS) -> list[list[str]]:
    """Shares names out: each is in exactly one fold, sizes differ by one at most, order is of no matter.

    Raises:
        DatasetError: There are fewer names than folds.
    """
    if len(names) < folds:
        raise DatasetError(
            "Too few pictures to cross-validate",
            got=f"{len(names)} pictures",
            expected=f"at least {folds}",
        )
    ordered = sorted(names)
    order = np.random.default_rng(_SEED).permutation(len(ordered))
    return [sorted(ordered[index] for index in order[fold::folds]) for fold in range(folds)]


def train_and_test(parts: Path, init: str, steps: int | None, scratch_dir: Path) -> dict[str, Any]:
    """Does what `appliance train PARTS/train --init INIT` does, then `appliance evaluate` on PARTS/test.

    Args:
        parts: Folder with `train` and `test`.
        init: Starting weights.
        steps: Training steps; None leaves them to the defaults.
        scratch_dir: Gets the folder of the run and the model file.

    Returns:
        Figures and decisions. `seconds` is all that the command does but for starting its cluster: check, read
        and decide (`prepare_s`), train with checkpoints and records, and write the model file (`train_s`).

    Raises:
        ApplianceError: As the two commands.
    """
    started_s = time.perf_counter()
    plan, dataset = _plan(str(parts / "train"), init, steps)
    prepared_s = time.perf_counter()
    network = train_here(plan, dataset.images, scratch_dir / "run", device="cpu", progress=False)
    info = ModelInfo(
        training=plan.config.to_json(), dataset_digest=plan.dataset_digest, parent=plan.init
    )
    model = str(scratch_dir / "model.safetensors")
    model_file.save(model, network, plan.spec, info=info)
    ended_s = time.perf_counter()
    test = ObjectDetectionDataset.read(parts / "test", labels=plan.spec.labels)
    found = FasterRCNN.load(model, device="cpu").evaluate_in_detail(test)
    if found.coco.ap is None:
        raise DatasetError(
            "There is nothing to measure on",
            got=f"{len(test)} test pictures without an object that counts",
        )
    return {
        "map_50": found.map_50,
        "coco_ap": found.coco.ap,
        "ap_50": found.ap_50,
        "seconds": ended_s - started_s,
        "prepare_s": prepared_s - started_s,
        "train_s": ended_s - prepared_s,
        "steps": plan.steps,
        "train_images": len(dataset),
        "test_images": len(test),
        "test_objects": found.num_objects,
        "decisions": [_told(decision, init) for decision in plan.decisions],
    }


def _plan(data: str, init: str, steps: int | None) -> tuple[TrainingPlan, ObjectDetectionDataset]:
    """What the command decides from its flags and the data; see `appliance.cli.train`."""
    settings = read_settings(init, None, {"steps": steps})
    dataset, _ = read_training_data(data, None, data_format="auto", images_root=None, check=True)
    plan = plan_training(
        dataset.label_map,
        images=len(dataset),
        dataset_digest=dataset.digest(),
        config=settings.training,
        init=init,
        pictures=dataset.images,
        open_settings=settings.open_settings,
        device="cpu",
        **settings.network,
    )
    return plan, dataset


def _told(decision: Decision, init: str) -> dict[str, str]:
    """A decision as plain values; where the weights lie on this machine is nobody's business."""
    return {name: text.replace(init, Path(init).name) for name, text in asdict(decision).items()}


def _copy(images: Sequence[AnnotatedImage], folder: Path) -> None:
    """Makes a folder as a user has it of some of the pictures, each file as it is."""
    for image in images:
        if image.annotation_path is None or not image.annotation_path.lower().endswith(".xml"):
            raise DatasetError(
                "Cross-validation takes Pascal VOC only",
                where=image.storage_path,
                got="a picture without an XML file of its own",
                hint="Convert the data with `appliance data convert DATA OUT --to voc`",
            )
        for path, subfolder in (
            (image.annotation_path, ANNOTATIONS_DIR),
            (image.storage_path, IMAGE_SUBDIRECTORY),
        ):
            (folder / subfolder).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, folder / subfolder)


def _line(figures: dict[str, Any]) -> str:
    return (
        f"mAP@0.5 {figures['map_50']:.4f}, COCO AP {figures['coco_ap']:.4f},"
        f" {figures['seconds']:.0f} s"
    )


if __name__ == "__main__":
    main()

"""The main job, end to end: data, training, evaluation, batch scores, a service, a report.

    data -> check -> train (Ray Train) -> evaluate -> score (Ray Data) -> serve (Ray Serve) -> report

On drawn sample scenes, or on the user's own annotated pictures. It uses nothing but what users use.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from appliance import storage
from appliance.annotations.checks.survey import refuse_errors
from appliance.annotations.dataset import AnnotatedImage, ObjectDetectionDataset
from appliance.annotations.samples.scenes import make_sample_dataset
from appliance.bulk.config import BatchScoringConfig
from appliance.bulk.scores.manifest import read_records
from appliance.client import Client
from appliance.demo.outcome import Online, Outcome
from appliance.detector import FasterRCNN
from appliance.errors import ConfigError
from appliance.evaluation.analysis import analyse
from appliance.evaluation.comparison import compare_pictures
from appliance.evaluation.report.page import result_charts, write_report
from appliance.evaluation.tensorboard import write_tensorboard
from appliance.on_ray import serving
from appliance.on_ray.batch_scoring import score_input
from appliance.on_ray.cluster import local_cluster
from appliance.on_ray.training import Workers, train_to_file
from appliance.records import Record, records_agree
from appliance.training.monitor import read_metrics
from appliance.training.plan import TrainingPlan, plan_training, settings_for

logger = logging.getLogger(__name__)

SAMPLE_STEPS = 300
OWN_DATA_STEPS = 350
HTTP_ROUNDS = 5
STAGES = 7
_MARKER = ".appliance-demo"


@dataclass(frozen=True)
class DemoOptions:
    """What to run the main job on.

    Attributes:
        out_dir: Gets the model, the scores, the report and `summary.json`.
        data: The user's annotated pictures; None draws sample scenes.
        test_data: Another folder to test on; None holds out `test_fraction` of `data`.
        test_fraction: Share of `data` to test on, 0..1.
        init: Starting weights: "none", "imagenet" or a file.
        steps: Training steps; None takes what suits sample scenes or own data.
        seed: Of the scenes, the split and the training.
        train_images: Sample scenes to train on.
        test_images: Sample scenes to test on.
        progress: Show progress bars.
    """

    out_dir: Path = Path("demo")
    data: str | None = None
    test_data: str | None = None
    test_fraction: float = 0.25
    init: str = "none"
    steps: int | None = None
    seed: int = 0
    train_images: int = 120
    test_images: int = 20
    progress: bool = True


@dataclass
class _Clock:
    """Wall seconds of each stage, in order."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        logger.info("[%d/%d] %s", len(self.seconds) + 1, STAGES, name)
        started_s = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - started_s, 2)


def run_demo(options: DemoOptions, *, started_s: float | None = None) -> dict[str, Any]:
    """Runs the main job and returns what it wrote to `summary.json`.

    Args:
        options: On what.
        started_s: `time.perf_counter()` when the command began, imports included; by default now.

    Raises:
        ApplianceError: Something in the way, said in one sentence.
    """
    started_s = time.perf_counter() if started_s is None else started_s
    if not 0 < options.test_fraction < 1:
        raise ConfigError(
            "--test-fraction is out of range",
            got=options.test_fraction,
            expected="above 0, below 1",
        )
    with _claimed(options.out_dir, keep=(options.data, options.test_data, options.init)):
        return _run(options, started_s)


def _run(options: DemoOptions, started_s: float) -> dict[str, Any]:
    out_dir = options.out_dir
    clock = _Clock()
    with clock.stage("Data"):
        folders = _folders(options)
    with clock.stage("Checks and statistics"):
        train_set, test_set = _load(folders, options)
        train_set.print_info()
        plan = _plan(options, train_set)
    model_path, run_dir = str(out_dir / "model.safetensors"), out_dir / "run"
    with ExitStack() as cluster:
        with clock.stage("Training with Ray Train"):
            # Ray's workers would give way to everything else on the machine; here they are the work.
            environment = {**serving.service_environment(), "RAY_worker_niceness": "0"}
            cluster.enter_context(local_cluster(environment=environment))
            trained = train_to_file(
                plan,
                train_set.images,
                run_dir,
                model_path,
                workers=Workers(),
                progress=options.progress,
            )
        with clock.stage("Evaluation"):
            evaluation = FasterRCNN.load(model_path).evaluate_in_detail(test_set)
            comparisons = compare_pictures(test_set.images, evaluation)
            analysis = analyse(evaluation)
            charts = result_charts(evaluation, analysis)
            write_tensorboard(
                run_dir / "eval", evaluation, comparisons, charts=charts, step=plan.steps
            )
        with clock.stage("Batch scoring with Ray Data"):
            pictures = _picture_folder(test_set.images, out_dir / "test_pictures")
            config = BatchScoringConfig(progress="auto" if options.progress else "off")
            batch = score_input(model_path, pictures, out_dir / "scores", config=config)
        with clock.stage("Online scoring with Ray Serve"):
            online = _score_online(model_path, read_records(out_dir / "scores"))
    outcome = Outcome(plan, train_set, test_set, trained, evaluation, batch, online)
    with clock.stage("Report"):
        report = outcome.report(
            training_log=read_metrics(run_dir), comparisons=comparisons, analysis=analysis
        )
        shown = replace(report, charts=charts)
        write_report(out_dir / "report", shown, images=test_set.images)
    summary = {
        **outcome.summary(),
        "seed": options.seed,
        "stages_s": clock.seconds,
        "total_wall_s": round(time.perf_counter() - started_s, 2),
    }
    text = json.dumps(summary, indent=2)
    storage.write_bytes(out_dir / "summary.json", text.encode())
    return summary


@contextmanager
def _claimed(out_dir: Path, keep: Sequence[str | None]) -> Iterator[None]:
    """Makes room for a new demo where an earlier one was, which comes back if this one fails.

    Never touches a folder that no demo has written, nor what this run needs.
    """
    for needed in keep:
        if needed is not None and Path(needed).resolve().is_relative_to(out_dir.resolve()):
            raise ConfigError(
                "The demo would overwrite its own input",
                where=needed,
                hint="Choose another folder with --out",
            )
    if out_dir.exists() and not out_dir.is_dir():
        raise ConfigError(
            "The output is not a folder", where=out_dir, hint="Choose a folder with --out"
        )
    if out_dir.exists() and any(out_dir.iterdir()) and not (out_dir / _MARKER).exists():
        raise ConfigError(
            "The output folder is in use",
            where=out_dir,
            got="files that no demo has written",
            hint="Choose another folder with --out",
        )
    earlier = out_dir.with_name(f"{out_dir.name}.earlier")
    if earlier.exists():
        shutil.rmtree(out_dir, ignore_errors=True)  # of a demo that was killed
    elif (out_dir / _MARKER).exists():
        out_dir.rename(earlier)
    storage.write_bytes(out_dir / _MARKER, b"")
    try:
        yield
    except BaseException:
        if earlier.exists():
            shutil.rmtree(out_dir, ignore_errors=True)
            earlier.rename(out_dir)
            logger.info("%s is as the last demo has left it", out_dir)
        elif [path.name for path in out_dir.iterdir()] == [_MARKER]:
            shutil.rmtree(out_dir)  # nothing came of it
        raise
    shutil.rmtree(earlier, ignore_errors=True)


def _folders(options: DemoOptions) -> dict[str, str]:
    """Pascal VOC folders by part; without a test part, some of the training part is held out."""
    if options.data is not None:
        test = {} if options.test_data is None else {"test": options.test_data}
        return {"train": options.data, **test}
    folder = options.out_dir / "data"
    make_sample_dataset(
        folder, train=options.train_images, test=options.test_images, seed=options.seed
    )
    return {part: str(folder / part) for part in ("train", "test")}


def _load(
    folders: dict[str, str], options: DemoOptions
) -> tuple[ObjectDetectionDataset, ObjectDetectionDataset]:
    """The training and test data, checked."""
    refuse_errors(folders)
    name = "sample scenes" if options.data is None else Path(options.data).resolve().name
    train_set = ObjectDetectionDataset.read(folders["train"], name)
    if "test" not in folders:
        return train_set.split(1 - options.test_fraction, seed=options.seed)
    test_set = ObjectDetectionDataset.read(folders["test"], "test", labels=train_set.labels)
    return train_set, test_set


def _plan(options: DemoOptions, train_set: ObjectDetectionDataset) -> TrainingPlan:
    steps = options.steps or (SAMPLE_STEPS if options.data is None else OWN_DATA_STEPS)
    sides: dict[str, Any] = {"shorter_side_px": 288} if options.data is None else {}
    return plan_training(
        train_set.label_map,
        images=len(train_set),
        dataset_digest=train_set.digest(),
        config=settings_for(options.init, steps=steps, seed=options.seed),
        init=options.init,
        **sides,
    )


def _picture_folder(images: Sequence[AnnotatedImage], folder: Path) -> Path:
    """A plain folder of pictures, as batch scoring takes it."""
    folder.mkdir(parents=True)
    for index, image in enumerate(images):
        # Pictures of several folders may share a name.
        storage.write_bytes(
            folder / f"{index:04d}_{image.name}", storage.read_bytes(image.storage_path)
        )
    return folder


def _score_online(model_path: str, batch_records: Sequence[Record]) -> Online:
    """Serves the model, scores the pictures of the batch again, compares and measures."""
    settings = {"model": model_path, "num_cpus": min(2, os.cpu_count() or 1)}
    service = serving.start_service(settings, port=0)
    latencies_ms: list[float] = []
    agree = True
    try:
        with Client(service.url) as client:
            for round_index in range(1 + HTTP_ROUNDS):
                for record in batch_records:
                    picture = storage.read_bytes(record.image_uri)
                    started_s = time.perf_counter()
                    answer = client.detect(picture, name=record.image_uri)
                    if round_index > 0:  # the first one warms up
                        latencies_ms.append(1000 * (time.perf_counter() - started_s))
                    agree = agree and records_agree(answer, record)
    finally:
        serving.stop_service()
    deciles = statistics.quantiles(latencies_ms, n=10)
    return Online(round(deciles[4], 2), round(deciles[8], 2), len(latencies_ms), agree)

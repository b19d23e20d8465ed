"""The main job, end to end: data, training, evaluation, batch scores, a service, a report.

    data -> check -> train (Ray Train) -> evaluate -> score (Ray Data) -> serve (Ray Serve) -> report

On drawn sample scenes, or on the user's own Pascal VOC folder. It uses nothing but what users use.
"""

from __future__ import annotations

import http.client
import json
import logging
import platform
import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from appliance import storage
from appliance.annotations.checks import check_dataset
from appliance.annotations.dataset import AnnotatedImage, ObjectDetectionDataset
from appliance.annotations.sample_scenes import make_sample_dataset
from appliance.detector import FasterRCNN
from appliance.errors import ConfigError, DatasetError, ServiceError
from appliance.evaluation.comparison import compare_pictures
from appliance.evaluation.report import ReportData, ReportSection, write_report
from appliance.evaluation.tensorboard import write_tensorboard
from appliance.on_ray import serving
from appliance.on_ray.batch_scoring import BatchScoringConfig, BatchSummary, score_folder
from appliance.on_ray.cluster import local_cluster
from appliance.on_ray.scores_folder import read_records
from appliance.on_ray.training import TrainedModel, Workers, train_to_file
from appliance.records import Record, records_agree
from appliance.training.monitor import read_metrics
from appliance.training.plan import TrainingPlan, plan_training, settings_for

logger = logging.getLogger(__name__)

SAMPLE_STEPS = 300
OWN_DATA_STEPS = 350
HTTP_ROUNDS = 5
STAGES = 7
_MARKER = ".appliance-demo"
_PACKAGES = ("torch", "torchvision", "ray", "numpy", "pillow", "pyarrow")


@dataclass(frozen=True)
class DemoOptions:
    """What to run the main job on.

    Attributes:
        out_dir: Gets the model, the scores, the report and `summary.json`.
        data: The user's Pascal VOC folder; None draws sample scenes.
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


@dataclass(frozen=True)
class _Online:
    """What scoring over HTTP gave."""

    p50_ms: float
    p90_ms: float
    requests: int
    equals_batch: bool


def run_demo(options: DemoOptions) -> dict[str, Any]:
    """Runs the main job and returns what it wrote to `summary.json`.

    Raises:
        ApplianceError: Something in the way, said in one sentence.
    """
    started_s = time.perf_counter()
    out_dir = options.out_dir
    _claim(out_dir)
    clock = _Clock()
    with local_cluster(environment=serving.service_environment()):
        with clock.stage("Data"):
            train_set, test_set = _datasets(options)
        with clock.stage("Checks and statistics"):
            train_set.print_info()
        plan = _plan(options, train_set)
        model_path = str(out_dir / "model.safetensors")
        with clock.stage("Training with Ray Train"):
            run_dir = out_dir / "run"
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
            write_tensorboard(run_dir / "eval", evaluation, comparisons, step=plan.steps)
        with clock.stage("Batch scoring with Ray Data"):
            pictures = _picture_folder(test_set.images, out_dir / "test_pictures")
            config = BatchScoringConfig(progress="auto" if options.progress else "off")
            batch = score_folder(model_path, pictures, out_dir / "scores", config=config)
        with clock.stage("Online scoring with Ray Serve"):
            online = _score_online(model_path, read_records(out_dir / "scores"))
    with clock.stage("Report"):
        summary = {
            "map_50": evaluation.map_50,
            "ap_50": evaluation.ap_50,
            "train_wall_s": round(trained.wall_s, 2),
            "train_steps": plan.steps,
            "train_images": len(train_set),
            "test_images": len(test_set),
            "batch_images_per_s": round(batch.images_per_s, 2),
            "http_p50_ms": online.p50_ms,
            "http_p90_ms": online.p90_ms,
            "http_requests": online.requests,
            "http_equals_batch": online.equals_batch,
            "model_version": trained.version,
            "init": Path(options.init).name,
            "seed": options.seed,
            "stages_s": clock.seconds,
            "versions": _versions(),
        }
        sections = _sections(train_set, plan, trained, batch, online)
        data = ReportData(
            model_name="Shelf groceries" if options.data is None else train_set.name,
            evaluation=evaluation,
            description=_description(options, plan, train_set, test_set),
            training_log=read_metrics(out_dir / "run"),
            comparisons=comparisons,
            sections=sections,
        )
        write_report(out_dir / "report", data)
    summary["total_wall_s"] = round(time.perf_counter() - started_s, 2)
    text = json.dumps(summary, indent=2)
    storage.write_bytes(out_dir / "summary.json", text.encode())
    return summary


def _claim(out_dir: Path) -> None:
    """Empties the folder of an earlier demo; never touches another."""
    if out_dir.exists() and any(out_dir.iterdir()) and not (out_dir / _MARKER).exists():
        raise ConfigError(
            "The output folder is in use",
            where=out_dir,
            got="files that no demo has written",
            hint="Choose another folder with --out",
        )
    shutil.rmtree(out_dir, ignore_errors=True)
    storage.write_bytes(out_dir / _MARKER, b"")


def _datasets(options: DemoOptions) -> tuple[ObjectDetectionDataset, ObjectDetectionDataset]:
    """The training and test data, checked."""
    if options.data is None:
        folder = options.out_dir / "data"
        make_sample_dataset(
            folder, train=options.train_images, test=options.test_images, seed=options.seed
        )
        return _load({"train": str(folder / "train"), "test": str(folder / "test")})
    if options.test_data is not None:
        return _load({"train": options.data, "test": options.test_data})
    if not 0 < options.test_fraction < 1:
        raise ConfigError(
            "--test-fraction is out of range",
            got=options.test_fraction,
            expected="above 0, below 1",
        )
    dataset, _ = _load({"train": options.data})
    return dataset.split(1 - options.test_fraction, seed=options.seed)


def _load(parts: dict[str, str]) -> tuple[ObjectDetectionDataset, ObjectDetectionDataset]:
    findings = check_dataset(parts)
    for finding in findings:
        logger.warning("%s", finding)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise DatasetError(
            f"The data has {len(errors)} errors, the first being",
            where=errors[0].file,
            got=errors[0].what,
            hint="Mend what `appliance data check` lists",
        )
    name = Path(parts["train"]).resolve().name
    train = ObjectDetectionDataset.create_from_dir(name, parts["train"])
    if "test" not in parts:
        return train, train
    test = ObjectDetectionDataset.create_from_dir("test", parts["test"], labels=train.labels)
    return train, test


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
    for image in images:
        shutil.copyfile(image.storage_path, folder / image.name)
    return folder


def _score_online(model_path: str, batch_records: Sequence[Record]) -> _Online:
    """Serves the model, scores the pictures of the batch again, compares and measures."""
    service = serving.start_service({"model": model_path, "num_cpus": 2}, port=0)
    try:
        address = urlsplit(service.url)
        connection = http.client.HTTPConnection(str(address.hostname), address.port, timeout=60)
        latencies_ms: list[float] = []
        agree = True
        for round_index in range(1 + HTTP_ROUNDS):
            for record in batch_records:
                body = storage.read_bytes(record.image_uri)
                started_s = time.perf_counter()
                answer = _post(connection, record.image_uri, body)
                if round_index > 0:  # the first one warms up
                    latencies_ms.append(1000 * (time.perf_counter() - started_s))
                agree = agree and records_agree(answer, record)
        connection.close()
    finally:
        serving.stop_service()
    deciles = statistics.quantiles(latencies_ms, n=10)
    return _Online(round(deciles[4], 2), round(deciles[8], 2), len(latencies_ms), agree)


def _post(connection: http.client.HTTPConnection, name: str, body: bytes) -> Record:
    target = f"/v1/detect?name={quote(name)}"
    connection.request("POST", target, body, {"Content-Type": "image/jpeg"})
    response = connection.getresponse()
    text = response.read().decode()
    if response.status != http.HTTPStatus.OK:
        raise ServiceError("The service refused a picture", where=name, got=text)
    return Record.from_row(json.loads(text))


def _description(
    options: DemoOptions,
    plan: TrainingPlan,
    train_set: ObjectDetectionDataset,
    test_set: ObjectDetectionDataset,
) -> str:
    start = "random weights" if options.init == "none" else Path(options.init).name
    return (
        f"{plan.spec.architecture} with {plan.spec.backbone}, {plan.steps} steps from {start} on "
        f"{len(train_set)} pictures, tested on {len(test_set)} others."
    )


def _sections(
    train_set: ObjectDetectionDataset,
    plan: TrainingPlan,
    trained: TrainedModel,
    batch: BatchSummary,
    online: _Online,
) -> list[ReportSection]:
    objects = sum(len(image.label_names) for image in train_set.images)
    return [
        ReportSection(
            "Training data",
            [("Pictures", len(train_set)), ("Objects", objects), ("Labels", len(plan.spec.labels))],
        ),
        ReportSection(
            "Speed",
            [
                ("Training, seconds", trained.wall_s),
                ("Training steps", plan.steps),
                ("Batch scoring, pictures/s", batch.images_per_s),
                ("HTTP, median latency, ms", online.p50_ms),
                ("HTTP answers equal batch rows", "yes" if online.equals_batch else "NO"),
            ],
        ),
        ReportSection("Versions", list(_versions().items())),
    ]


def _versions() -> dict[str, str]:
    packages = {name: metadata.version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), **packages, "machine": platform.platform()}

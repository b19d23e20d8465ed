"""What `FasterRCNN.train` does: from a data set and wishes to a trained model, in this process."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NoReturn

from torchvision.models.detection import FasterRCNN as Network

from appliance.annotations.dataset import ObjectDetectionDataset
from appliance.detector.data import check_is_dataset, check_labels
from appliance.errors import ConfigError
from appliance.labels import LabelMap
from appliance.model.model_file import ModelInfo
from appliance.model.pretrained import best_starting_weights
from appliance.model.spec import ModelSpec, plain_number
from appliance.model.weights import read_starting_weights
from appliance.training.config import TrainingConfig
from appliance.training.plan import plan_training, settings_for
from appliance.training.run import train_here


def train_detector(
    dataset: ObjectDetectionDataset,
    labels: LabelMap,
    *,
    validation: ObjectDetectionDataset | None,
    architecture: str,
    init: str | None,
    settings: Mapping[str, Any],
    config: TrainingConfig | None,
    wishes: Mapping[str, Any],
    run_dir: Path,
    device: str,
    resume: bool,
    progress: bool,
) -> tuple[Network, ModelSpec, ModelInfo]:
    """Trains a detector from its starting weights.

    Args:
        dataset: Annotated pictures; their labels must be among `labels`.
        labels: The classes of the detector.
        validation: Annotated pictures to measure on while it trains; None measures nothing.
        architecture: One of `model.spec.ARCHITECTURES`.
        init: Starting weights; None takes the best there are.
        settings: Of `ModelSpec`, besides.
        config: How to train; None takes what suits the starting weights.
        wishes: Fields of `TrainingConfig` that replace its own; those that are None do not.
        run_dir: Folder of checkpoints, metrics and TensorBoard files.
        device: "cpu", "cuda" or "auto".
        resume: Go on from the newest checkpoint in `run_dir`, if there is one.
        progress: Show a progress bar.

    Raises:
        ConfigError: `dataset` is something else, or a setting is wrong.
        LabelError: The dataset has a label that the detector was not made for.
        TrainingError: See `training.engine.train`.
    """
    for data in (dataset,) if validation is None else (dataset, validation):
        check_is_dataset(data)
        check_labels(data, labels)
    validation_images = () if validation is None else validation.images
    given = {name: value for name, value in wishes.items() if value is not None}
    replace(config or TrainingConfig(), **given)  # refuses a wrong one before a download begins
    if init is None:
        weights = best_starting_weights(architecture)
    else:
        weights = read_starting_weights(init, architecture)
    # Whoever gives a configuration means all of it.
    left_open = set() if config else {field.name for field in fields(TrainingConfig)} - set(given)
    plan = plan_training(
        labels,
        images=len(dataset),
        dataset_digest=dataset.digest(),
        config=replace(config or settings_for(weights.source), **given),
        architecture=architecture,
        init=weights.source,
        weights=weights,
        pictures=dataset.images,
        validation_images=len(validation_images),
        open_settings=left_open,
        device=device,
        **settings,
    )
    network = train_here(
        plan,
        dataset.images,
        run_dir,
        validation=validation_images,
        device=device,
        resume=resume,
        progress=progress,
    )
    info = ModelInfo(
        training=plan.config.to_json(), dataset_digest=plan.dataset_digest, parent=plan.init
    )
    return network, plan.spec, info


def learning_rate_stages(
    given: Mapping[str, float], call: Callable[..., None]
) -> tuple[tuple[int, float], ...]:
    """`step1=..., learning_rate1=..., step2=...` as pairs for `TrainingConfig`.

    Args:
        given: What was given besides the arguments that have a name.
        call: To which it was given.

    Raises:
        ConfigError: One is missing, has another name, or is no number.
    """
    for name in given:
        if not re.fullmatch(r"(step|learning_rate)\d+", name):
            _refuse_argument(name, call)
    numbers = range(1, len(given) // 2 + 1)
    expected = {name for n in numbers for name in (f"step{n}", f"learning_rate{n}")}
    if set(given) != expected:
        raise ConfigError(
            "The learning rate stages are wrong",
            got=", ".join(sorted(given)),
            expected="step1, learning_rate1, step2, learning_rate2, ... without a gap",
        )
    values = {
        name: plain_number(name, value, whole=name.startswith("step"))
        for name, value in given.items()
    }
    return tuple((int(values[f"step{n}"]), values[f"learning_rate{n}"]) for n in numbers)


def _refuse_argument(name: str, call: Callable[..., None]) -> NoReturn:
    parameters = inspect.signature(call).parameters.values()
    known = [p.name for p in parameters if p.kind is not p.VAR_KEYWORD]
    near = difflib.get_close_matches(name, known, n=1)
    raise ConfigError(
        "Unknown argument",
        got=name,
        expected=f"{', '.join(known)}, or step1, learning_rate1, ...",
        hint=f"Did you mean {near[0]}" if near else None,
    )

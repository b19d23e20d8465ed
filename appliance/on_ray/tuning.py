"""A search for settings with Ray Tune: many short trainings, the worse ones stopped early (ASHA)."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import ray
import torch
from ray import tune
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import ASHAScheduler
from ray.tune.search.basic_variant import BasicVariantGenerator

from appliance.annotations.dataset import AnnotatedImage
from appliance.config import parse_settings
from appliance.errors import ApplianceError, ConfigError, TrainingError
from appliance.model.spec import ModelSpec
from appliance.on_ray.process_environment import variables
from appliance.on_ray.scratch import scratch_folder
from appliance.on_ray.training_loop import for_workers, images_for_workers
from appliance.training.config import TrainingConfig
from appliance.training.engine import train
from appliance.training.plan import TrainingPlan
from appliance.training.search import SearchRange, SearchResult, Trial
from appliance.training.validation import Validator

logger = logging.getLogger(__name__)

_ENVIRONMENT = {
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # our own command line handles Ctrl-C
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # of Tune's own files only the results are read, by itself
    "RAY_AIR_NEW_OUTPUT": "0",  # that output names a folder that is gone afterwards, however quiet it is to be
}
_REDUCTION = 3
"""Of the trials that have come equally far, one in so many goes on (the paper's eta, arXiv 1810.05934)."""
_ERROR_KEY = "error_sentence"


@dataclass(frozen=True)
class Search:
    """How to search.

    Attributes:
        ranges: What to try.
        trials: How many sets of values.
        parallel: Trials at a time; None leaves two CPU cores, or a GPU, to each.
        use_gpu: One GPU for each trial.
        seed: Decides which values are tried.
    """

    ranges: tuple[SearchRange, ...]
    trials: int = 10
    parallel: int | None = None
    use_gpu: bool = False
    seed: int = 0


def check_search(plan: TrainingPlan, validation: Sequence[AnnotatedImage], search: Search) -> None:
    """Refuses, before any cluster has started, what could only fail in every trial.

    Args:
        plan: What all trials have in common.
        validation: Pictures to compare on.
        search: How to search.

    Raises:
        ConfigError: A value in a range is not allowed, or a setting has two ranges.
        LabelError, DatasetError: The pictures cannot be measured on.
    """
    names = [searched.name for searched in search.ranges]
    for searched in search.ranges:
        if names.count(searched.name) > 1:
            raise ConfigError(
                "A setting has two ranges",
                got=searched.name,
                hint=f"Give all of its values in one: --range {searched.name}=A,B,C",
            )
        for value in searched.ends():
            with_values(plan, {searched.name: value})
    Validator(validation, plan.spec)


def search_on_ray(
    plan: TrainingPlan,
    images: Sequence[AnnotatedImage],
    validation: Sequence[AnnotatedImage],
    search: Search,
    *,
    progress: bool = True,
) -> SearchResult:
    """Searches on the Ray cluster this process is connected to.

    The first trial has the plan as it is, where its values lie in the ranges, so that the result is never
    worse than that.

    Args:
        plan: What all trials have in common: the network, the steps, when to validate.
        images: The training data; every worker must be able to read their files.
        validation: Pictures to compare on.
        search: How.
        progress: Log every trial that ends.

    Raises:
        ConfigError, LabelError, DatasetError: As in `check_search`.
        TrainingError: Every trial failed.
    """
    check_search(plan, validation, search)
    resources, parallel = _resources(search)
    task = (for_workers(plan), images_for_workers(images), images_for_workers(validation))
    space = {searched.name: _domain(searched) for searched in search.ranges}
    with scratch_folder("appliance-tune-") as scratch, variables(_ENVIRONMENT):
        tuner = tune.Tuner(
            tune.with_resources(tune.with_parameters(_trial, task=task), resources),
            param_space=space,
            tune_config=tune.TuneConfig(
                metric="best",
                mode="max",
                num_samples=search.trials,
                # One process for many trials: to start one costs seconds.
                reuse_actors=True,
                search_alg=BasicVariantGenerator(
                    points_to_evaluate=_starting_points(plan, search.ranges),
                    max_concurrent=parallel,
                    random_state=search.seed,
                ),
                scheduler=ASHAScheduler(
                    time_attr="step",
                    max_t=plan.steps,
                    grace_period=min(plan.steps, _first_validation(plan)),
                    reduction_factor=_REDUCTION,
                ),
            ),
            run_config=tune.RunConfig(
                name="search",
                storage_path=str(scratch),
                verbose=0,
                callbacks=[
                    JsonLoggerCallback(),
                    _Log(search.trials, plan.config.validation_metric, enabled=progress),
                ],
            ),
        )
        # Its type says nothing of being iterable.
        grid: Any = tuner.fit()
        trials = [_told(number, result) for number, result in enumerate(grid, start=1)]
    found = SearchResult.of(plan.config.validation_metric, plan.steps, trials)
    if not trials or found.best.best is None:
        raise TrainingError(
            "Every trial failed",
            got=trials[0].error if trials else "no trial",
            hint="Train once with `appliance train` to see what is wrong",
        )
    return found


def with_values(plan: TrainingPlan, values: Mapping[str, Any]) -> TrainingPlan:
    """The plan with other values of some settings of training or of the network.

    Raises:
        ConfigError: One is out of range, or of another type.
    """
    of_network = {name: value for name, value in values.items() if hasattr(plan.spec, name)}
    of_training = {name: value for name, value in values.items() if name not in of_network}
    return replace(
        plan,
        spec=parse_settings(ModelSpec, {**asdict(plan.spec), **of_network}, source="--range"),
        config=parse_settings(
            TrainingConfig, {**asdict(plan.config), **of_training}, source="--range"
        ),
    )


def _trial(
    values: dict[str, Any],
    *,
    task: tuple[TrainingPlan, list[AnnotatedImage], list[AnnotatedImage]],
) -> None:
    """One training on one worker, which reports after each validation."""
    base, images, validation = task
    plan = with_values(base, values)
    metric = plan.config.validation_metric
    best: tuple[float, int] = (-math.inf, 0)
    started_s = time.perf_counter()

    def on_validation(step: int, metrics: Mapping[str, float]) -> None:
        nonlocal best
        best = max(best, (metrics.get(metric, 0.0), step), key=lambda pair: pair[0])
        tune.report(
            {
                "step": step,
                "best": best[0],
                "best_step": best[1],
                "seconds": time.perf_counter() - started_s,
            }
        )

    device = torch.device("cuda" if ray.get_gpu_ids() else "cpu")
    try:
        train(
            plan.build_network(),
            plan.spec,
            images,
            replace(plan.config, checkpoint_every_steps=0),
            steps=plan.steps,
            train_batch_norm=bool(plan.config.train_batch_norm),
            device=device,
            validate=Validator(validation, plan.spec, device=str(device)),
            on_validation=on_validation,
        )
    except ApplianceError as error:
        # Values that do not train are a result too; a traceback of Tune's would say less.
        tune.report(
            {
                "step": 0 if best[1] == 0 else best[1],
                "best": best[0],
                "best_step": best[1],
                "seconds": time.perf_counter() - started_s,
                _ERROR_KEY: error.message,
            }
        )


class _Log(tune.Callback):
    """Says which trial has ended, and how."""

    def __init__(self, trials: int, metric: str, *, enabled: bool) -> None:
        self._enabled = enabled
        self._trials = trials
        self._metric = metric
        self._ended = 0

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._ended += 1
        if not self._enabled:
            return
        values = ", ".join(f"{name} {_short(value)}" for name, value in trial.config.items())
        last = trial.last_result or {}
        best, step = last.get("best", -math.inf), last.get("step", 0)
        result = f"{self._metric} {best:.4f} after step {step}" if best > -math.inf else "failed"
        logger.info("trial %d of %d: %s: %s", self._ended, self._trials, values, result)


def _told(number: int, result: Any) -> Trial:
    metrics = result.metrics or {}
    best = metrics.get("best", -math.inf)
    error = metrics.get(_ERROR_KEY)
    if result.error is not None and error is None:
        error = str(result.error).strip().splitlines()[-1][:300]
    return Trial(
        number=number,
        values=dict(result.config or {}),
        step=int(metrics.get("step", 0)),
        best=None if best == -math.inf else float(best),
        best_step=int(metrics["best_step"]) if best > -math.inf else None,
        seconds=round(float(metrics.get("seconds", 0.0)), 1),
        error=error,
    )


def _domain(searched: SearchRange) -> Any:
    if searched.choices:
        return tune.choice(list(searched.choices))
    low, high = searched.ends()
    if searched.whole:
        draw = tune.lograndint if searched.scale == "log" else tune.randint
        return draw(low, high + 1)
    draw = tune.loguniform if searched.scale == "log" else tune.uniform
    return draw(low, high)


def _starting_points(
    plan: TrainingPlan, ranges: Sequence[SearchRange]
) -> list[dict[str, Any]] | None:
    values = {
        searched.name: getattr(
            plan.spec if hasattr(plan.spec, searched.name) else plan.config, searched.name
        )
        for searched in ranges
    }
    return [values] if all(s.holds(values[s.name]) for s in ranges) else None


def _first_validation(plan: TrainingPlan) -> int:
    return plan.config.validate_every_steps or plan.steps


def _resources(search: Search) -> tuple[dict[str, float], int]:
    cluster = ray.cluster_resources()
    cpus = int(cluster.get("CPU", 1))
    most = int(cluster.get("GPU", 0)) if search.use_gpu else max(1, cpus // 2)
    parallel = max(1, min(search.trials, search.parallel or most))
    resources: dict[str, float] = {"cpu": max(1, cpus // parallel)}
    return ({**resources, "gpu": 1} if search.use_gpu else resources), parallel


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

"""What a run writes, compared with the room on its disk before it starts: a full disk is noticed now, not then."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from torchvision.models.detection import FasterRCNN

from appliance import storage
from appliance.errors import StorageError
from appliance.model.faster_rcnn import build_hollow_network, freeze_stages
from appliance.training.plan import TrainingPlan
from appliance.training.run_folder import RunFolder

_MIB = 2**20


@dataclass(frozen=True)
class DiskNeed:
    """What a run has on its disks when it needs them most, at the least.

    Not counted is the best checkpoint, which may be one of the last, and what is small.

    Attributes:
        checkpoint_bytes: Of one checkpoint.
        model_bytes: Of the model file.
        kept: Checkpoints that stay.
        written: Checkpoints at most at a time, the one that is being written included.
    """

    checkpoint_bytes: int
    model_bytes: int
    kept: int
    written: int

    def of_run(self, *, model_too: bool) -> int:
        """Bytes on the disk of the run; `model_too` where the model file goes there as well."""
        at_the_end = self.kept * self.checkpoint_bytes + model_too * self.model_bytes
        return max(self.written * self.checkpoint_bytes, at_the_end)


def disk_need(plan: TrainingPlan) -> DiskNeed:
    """What the run of a plan needs, from the shapes of its network."""
    config, network = plan.config, build_hollow_network(plan.spec)
    freeze_stages(network, plan.spec, config.frozen_stages or 0)
    state_bytes = _bytes_of(network)
    learnt = sum(p.numel() * p.element_size() for p in network.parameters() if p.requires_grad)
    moments = 2 if config.optimizer == "adamw" else int(config.momentum > 0)
    averaged = int(config.ema_decay is not None)
    every = config.checkpoint_every_steps or max(1, plan.steps)
    made = -(-plan.steps // every)
    return DiskNeed(
        checkpoint_bytes=(1 + averaged) * state_bytes + moments * learnt,
        model_bytes=state_bytes,
        kept=min(made, config.keep_checkpoints),
        written=min(made, config.keep_checkpoints + 1),
    )


def check_disk(plan: TrainingPlan, folder: RunFolder, model_uri: str | None = None) -> None:
    """Refuses a run whose checkpoints, or whose model file, surely do not fit on their disks.

    Args:
        plan: Of the run.
        folder: Of the run; the room of an object store is its own affair.
        model_uri: Where the model file goes; None where there is none.

    Raises:
        StorageError: There is too little room.
    """
    need = disk_need(plan)
    model = None
    if model_uri is not None and not storage.is_remote(model_uri):
        model = _existing(storage.local_path(storage.absolute(model_uri)))
    run = None if folder.is_remote else _existing(folder.local)
    together = run is not None and model is not None and run.stat().st_dev == model.stat().st_dev
    if run is not None:
        checkpoints = storage.local_path(folder.checkpoints().folder)
        # Those of a run that goes on make room for new ones.
        there = sum(path.stat().st_size for path in checkpoints.glob("step-*"))
        free = shutil.disk_usage(run).free + there
        _refuse(
            "The disk has too little room for the run",
            folder.uri,
            f"{need.written} checkpoints of {_mib(need.checkpoint_bytes)}"
            + (f", and a model file of {_mib(need.model_bytes)} at the end" if together else ""),
            need.of_run(model_too=together),
            free,
            "Choose another --run-dir, or a smaller --keep-checkpoints",
        )
    if model is not None and not together:
        _refuse(
            "The disk has too little room for the model file",
            model_uri,
            "the model file",
            need.model_bytes,
            shutil.disk_usage(model).free,
            "Choose another --out",
        )


def _refuse(what: str, where: str | None, contents: str, needed: int, free: int, hint: str) -> None:
    if free < needed:
        raise StorageError(
            what,
            where=where,
            got=f"{_mib(free)} free",
            expected=f"{_mib(needed)} for {contents}",
            hint=f"{hint}, or make room",
        )


def _existing(path: Path) -> Path:
    """The path, or the nearest folder above it that is there already."""
    return next((place for place in (path, *path.parents) if place.exists()), Path(os.sep))


def _bytes_of(network: FasterRCNN) -> int:
    return sum(value.numel() * value.element_size() for value in network.state_dict().values())


def _mib(size: int) -> str:
    return f"{size / _MIB:,.1f} MiB"

"""On what to train: how many workers, and how many cores each of them gets."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from appliance.errors import ConfigError
from appliance.on_ray.cluster import joins_a_cluster
from appliance.training.config import TrainingConfig
from appliance.training.engine import check_parts

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Workers:
    """On what to train.

    With `min_count` a run is elastic: it begins, and goes on after the loss of a node, with as many workers
    as the cluster has room for, and takes more when there is room again, from its last checkpoint on. The
    batch stays the same and is split over those there are. Sums over another number of workers are
    rounded otherwise, so that the weights of such a run equal those of one without a change only as
    nearly as rounding allows; with a fixed number they are equal bit for bit.

    Attributes:
        count: Number of workers, or the most of them; every batch is split over them.
        use_gpu: One GPU each.
        cpus_each: CPU cores (and threads) of each; None shares out those of the cluster.
        max_failures: How often a run goes on after losing a worker.
        min_count: The fewest workers to go on with; None waits until there is room for all.
        room_timeout_s: How long to wait at the beginning for a cluster that has no room yet, and may grow.
    """

    count: int = 1
    use_gpu: bool = False
    cpus_each: int | None = None
    max_failures: int = 3
    min_count: int | None = None
    room_timeout_s: float = 600.0

    def __post_init__(self) -> None:
        if not 1 <= self.fewest <= self.count:
            raise ConfigError(
                "The number of workers is out of range",
                got=str(self),
                expected="at least 1, and MIN:MAX with MIN no larger than MAX",
            )

    @classmethod
    def parse(cls, text: str, *, use_gpu: bool = False) -> Workers:
        """Reads "4" or "1:4".

        Raises:
            ConfigError: It is neither.
        """
        match = re.fullmatch(r"(?:(\d+):)?(\d+)", text.strip())
        if match is None:
            raise ConfigError("Not a number of workers", got=repr(text), expected="N or MIN:MAX")
        fewest = None if match[1] is None else int(match[1])
        return cls(int(match[2]), use_gpu, min_count=fewest)

    @property
    def fewest(self) -> int:
        """The fewest workers the run goes on with."""
        return self.count if self.min_count is None else self.min_count

    @property
    def is_elastic(self) -> bool:
        """Whether their number may change."""
        return self.fewest < self.count

    def __str__(self) -> str:
        return str(self.count) if self.fewest == self.count else f"{self.fewest}:{self.count}"

    def check_batch(self, config: TrainingConfig) -> None:
        """Refuses a batch that the workers cannot share evenly: some would wait for the others.

        With fewer of an elastic run some may have a picture more; every picture counts the same.

        Raises:
            ConfigError: It cannot be split over `count`, or not into the parts in which each is to compute its share.
        """
        if config.batch_size % self.count:
            raise ConfigError(
                "The batch cannot be split evenly over the workers",
                got=f"batch size {config.batch_size} and {self.count} workers",
                hint=f"Choose a batch size that is a multiple of {self.count}",
            )
        check_parts(config, self.count)


def refuse_without_gpus(workers: Workers, address: str | None) -> None:
    """Refuses at once what a local cluster would wait for in vain; one that is joined may still grow.

    Args:
        workers: On what to train.
        address: Of the cluster, as the user gave it.

    Raises:
        ConfigError: This machine has not enough GPUs.
    """
    if not workers.use_gpu or joins_a_cluster(address):
        return
    gpus = torch.cuda.device_count()
    if gpus < workers.fewest:
        raise ConfigError(
            "This machine has no GPU that PyTorch can use"
            if gpus == 0
            else "This machine has fewer GPUs than workers",
            got=f"{gpus} GPUs",
            expected=f"{workers.fewest}, one for each worker",
            hint="Leave --gpu out, or name a cluster that has GPUs by --address",
        )


def room_for(workers: Workers, cpus: int, nodes: Sequence[Mapping[str, float]]) -> bool:
    """Whether the nodes there are have room for enough workers of so many cores; says so where not.

    Args:
        workers: How many, and whether each wants a GPU.
        cpus: Cores of each.
        nodes: Resources of every node, as Ray names them.
    """
    room = 0
    for node in nodes:
        by_cpus = int(node.get("CPU", 0) // cpus)
        room += min(by_cpus, int(node.get("GPU", 0))) if workers.use_gpu else by_cpus
    if room < workers.fewest:
        logger.warning(
            "the cluster has room for %d of %s workers with %d CPUs%s each; waiting for more, up to %.0f s",
            room,
            workers,
            cpus,
            " and a GPU" if workers.use_gpu else "",
            workers.room_timeout_s,
        )
    return room >= workers.fewest


def cpus_for_each(workers: Workers, cpus_of_nodes: Sequence[float]) -> int:
    """Cores for each worker, so that all of them find room on the nodes there are; at least 1.

    Args:
        workers: How many; `cpus_each` is taken as it is.
        cpus_of_nodes: CPUs of every node.
    """
    if workers.cpus_each:
        return workers.cpus_each
    most = int(max(cpus_of_nodes, default=1))
    fitting = (
        cpus
        for cpus in range(most, 1, -1)
        if sum(int(of_node // cpus) for of_node in cpus_of_nodes) >= workers.count
    )
    return next(fitting, 1)

"""What the workers of a run tell each other beside gradients, so that all of them do the same.

Every function is a barrier: all workers must call it, in the same order. Alone, none of them communicates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
import torch.distributed as dist

from appliance.training.data import Share

T = TypeVar("T")


def any_worker(here: bool, share: Share, device: torch.device) -> bool:
    """Whether it is so on at least one worker; one number is sent."""
    if share.world_size == 1:
        return here
    flag = torch.tensor(int(here), dtype=torch.int32, device=device)
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


def from_first(value: T, share: Share, device: torch.device) -> T:
    """The value that the worker of rank 0 has; that of the others is not looked at."""
    if share.world_size == 1:
        return value
    values = [value]
    with _on(device):
        dist.broadcast_object_list(values, src=0)
    return values[0]


def from_all(value: T, share: Share, device: torch.device) -> list[T]:
    """The values of all workers in the order of their ranks."""
    if share.world_size == 1:
        return [value]
    values: list[T] = [value] * share.world_size
    with _on(device):
        dist.all_gather_object(values, value)
    return values


@contextmanager
def _on(device: torch.device) -> Iterator[None]:
    """NCCL sends objects by way of the current GPU, which must be this worker's own."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device):
        yield

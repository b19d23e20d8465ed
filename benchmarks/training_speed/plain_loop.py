"""A plain training loop in torch around torchvision's detection model, as its reference script has it.

Source: references/detection of torchvision (train.py, engine.py): SGD with momentum 0.9 and weight decay 1e-4,
0.02 as the learning rate of 16 pictures, a linear warm-up of at most a thousand steps over the first pass, a tenth
of the rate after 16 and 22 of 26 passes (here the same shares of the run), horizontal flips, a DataLoader that
hands on lists of pictures, which the model itself normalises, resizes and pads, and float32 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import nn, optim
from torch.utils.data import DataLoader, Dataset
from torchvision.models.detection import FasterRCNN
from torchvision.transforms.v2 import functional as transforms

from appliance.annotations.annotated_image import AnnotatedImage
from appliance.errors import TrainingError
from appliance.labels import LabelMap
from benchmarks.training_speed.phases import Phases, Window

PHASES = ("data", "forward", "backward", "optimizer")
_RATE_OF_16 = 0.02
_DECAYS_AT = (16 / 26, 22 / 26)
_WARM_UP_STEPS = 1000
_FLIP = 0.5

Target = dict[str, torch.Tensor]


@dataclass(frozen=True)
class PlainSettings:
    """How the loop trains.

    Attributes:
        steps: Of the run.
        batch_size: Pictures a step.
        train_batch_norm: Whether BatchNorm learns its statistics; torchvision freezes those of pretrained
            backbones.
        loader_workers: Processes of the DataLoader; they begin once, not with every pass as the script's do.
        seed: Of order, flips and sampling.
    """

    steps: int
    batch_size: int
    train_batch_norm: bool
    loader_workers: int
    seed: int

    @property
    def learning_rate(self) -> float:
        """The script's, in proportion to the batch."""
        return _RATE_OF_16 * self.batch_size / 16


def train_plainly(
    network: FasterRCNN,
    images: Sequence[AnnotatedImage],
    labels: LabelMap,
    settings: PlainSettings,
    window: Window,
) -> tuple[list[float], Phases]:
    """Trains `network` in place.

    Args:
        network: Anywhere; parameters that do not require gradients stay as they are.
        images: The training data.
        labels: The classes of the network.
        settings: How.
        window: Told of every step; its device is where to compute.

    Returns:
        The loss of every step, and the phases of every step.

    Raises:
        TrainingError: The loss is not finite.
    """
    device = window.device
    torch.manual_seed(settings.seed)
    network.to(device).train()
    if not settings.train_batch_norm:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
    optimizer = optim.SGD(
        [parameter for parameter in network.parameters() if parameter.requires_grad],
        lr=settings.learning_rate,
        momentum=0.9,
        weight_decay=1e-4,
    )
    order = _order(len(images), settings)
    schedule = _schedule(optimizer, settings.steps, len(images) // settings.batch_size)
    loader = DataLoader(
        _Pictures(images, labels),
        batch_sampler=order,
        num_workers=settings.loader_workers,
        collate_fn=_collate,
    )
    losses: list[float] = []
    phases = Phases(PHASES, device)
    batches = iter(loader)
    for step in range(1, settings.steps + 1):
        phases.begin_step()
        pictures, targets = next(batches)
        pictures = [picture.to(device) for picture in pictures]
        targets = [{name: value.to(device) for name, value in one.items()} for one in targets]
        phases.end_phase()
        found = network(pictures, targets)
        loss = torch.stack(list(found.values())).sum()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise TrainingError("The loss of the plain loop is not finite", where=f"step {step}")
        phases.end_phase()
        optimizer.zero_grad()
        loss.backward()
        phases.end_phase()
        optimizer.step()
        schedule.step()
        phases.end_phase()
        window.step_done(step)
    return losses, phases


class _Pictures(Dataset[tuple[torch.Tensor, Target]]):
    """Decoded and flipped by chance, as the script's preset "hflip" does it."""

    def __init__(self, images: Sequence[AnnotatedImage], labels: LabelMap) -> None:
        self._images = images
        self._class_map = labels.class_map

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Target]:
        image = self._images[index]
        with Image.open(image.storage_path) as opened:
            pixels = transforms.pil_to_tensor(opened.convert("RGB"))
        boxes_xyxy = torch.from_numpy(image.boxes_xyxy.copy())
        if torch.rand(()) < _FLIP:
            pixels = pixels.flip(-1)
            boxes_xyxy[:, [0, 2]] = image.size_hw[1] - boxes_xyxy[:, [2, 0]]
        class_ids = torch.tensor([self._class_map[n] for n in image.label_names], dtype=torch.int64)
        return pixels.float() / 255, {"boxes": boxes_xyxy, "labels": class_ids}


def _collate(
    samples: Sequence[tuple[torch.Tensor, Target]],
) -> tuple[list[torch.Tensor], list[Target]]:
    return [pixels for pixels, _ in samples], [target for _, target in samples]


def _order(images: int, settings: PlainSettings) -> list[list[int]]:
    """The pictures of every step: one shuffled pass after the other, rests that fill no batch left out."""
    generator = torch.Generator().manual_seed(settings.seed)
    batches: list[list[int]] = []
    while len(batches) < settings.steps:
        shuffled = torch.randperm(images, generator=generator).tolist()
        full = images - images % settings.batch_size
        batches += [
            shuffled[at : at + settings.batch_size] for at in range(0, full, settings.batch_size)
        ]
    return batches[: settings.steps]


def _schedule(
    optimizer: optim.Optimizer, steps: int, steps_of_a_pass: int
) -> optim.lr_scheduler.LRScheduler:
    warm_up_steps = max(1, min(_WARM_UP_STEPS, steps_of_a_pass - 1))
    return optim.lr_scheduler.ChainedScheduler(
        [
            optim.lr_scheduler.LinearLR(optimizer, 1 / _WARM_UP_STEPS, total_iters=warm_up_steps),
            optim.lr_scheduler.MultiStepLR(
                optimizer, [round(at * steps) for at in _DECAYS_AT], 0.1
            ),
        ]
    )

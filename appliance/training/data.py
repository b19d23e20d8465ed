"""From annotated pictures to batches, made ahead of the network.

Everything random is a function of (seed, step, position), never of what was drawn before: a run that
resumes at step 137 sees what it would have seen, and no sampler or generator state need be saved.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F

from appliance import storage
from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import DatasetError
from appliance.images.decoding import decode_image
from appliance.labels import LabelMap
from appliance.model.inference.resizing import SIZE_DIVISOR, resize
from appliance.model.spec import ModelSpec
from appliance.training import ahead
from appliance.training.augmentation import Picture, Sample, augment, partners
from appliance.training.batching import SizeBuckets, batch_indices
from appliance.training.config import TrainingConfig


@dataclass(frozen=True, eq=False)
class Batch:
    """What one step learns from.

    Attributes:
        pixels: float32 `[B, 3, H, W]`, 0..255, padded below and to the right with zeros.
        sizes_hw: Height and width of each picture within `pixels`.
        targets: For each picture `boxes` float32 `[N, 4]` xyxy in pixels of the input and `labels`
            int64 `[N]`; N may be 0.
        names: File names, for error messages.
        dropped: Objects that augmentation cut off so far that they are not learnt.
    """

    pixels: torch.Tensor
    sizes_hw: list[tuple[int, int]]
    targets: list[dict[str, torch.Tensor]]
    names: list[str]
    dropped: int = 0

    def __reduce__(self) -> tuple[Any, ...]:
        # Between processes every tensor takes an open file; the many small ones travel as values.
        arrays = [{name: value.numpy() for name, value in t.items()} for t in self.targets]
        return _batch, (self.pixels, self.sizes_hw, arrays, self.names, self.dropped)

    def pin_memory(self) -> Batch:
        """The same in page-locked memory; torch's loader calls it by this name."""
        targets = [{name: value.pin_memory() for name, value in t.items()} for t in self.targets]
        return replace(self, pixels=self.pixels.pin_memory(), targets=targets)


def _batch(
    pixels: torch.Tensor,
    sizes_hw: list[tuple[int, int]],
    arrays: list[dict[str, npt.NDArray[Any]]],
    names: list[str],
    dropped: int,
) -> Batch:
    targets = [{name: torch.from_numpy(value) for name, value in t.items()} for t in arrays]
    return Batch(pixels, sizes_hw, targets, names, dropped)


@dataclass(frozen=True)
class Share:
    """Which part of every batch a worker takes.

    Attributes:
        rank: Of this worker, from 0.
        world_size: Number of workers.
    """

    rank: int = 0
    world_size: int = 1

    def stream(self, part: int) -> int:
        """The number of a part of this worker among the parts of all workers."""
        return self.rank + part * self.world_size


class BatchLoader:
    """Makes the batches of a worker, ahead of the step that needs them.

    Args:
        images: The annotated pictures of the whole data set.
        labels: The classes of the model.
        spec: Says at which size pictures enter the network.
        config: Batch size, augmentation, seed, cache, loader processes.
        share: This worker's part.
        pin: Into page-locked memory, from which a GPU fetches while it computes.
    """

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        labels: LabelMap,
        spec: ModelSpec,
        config: TrainingConfig,
        share: Share = Share(),
        *,
        pin: bool = False,
    ) -> None:
        self._images = images
        self._class_map = labels.class_map
        self._spec = spec
        self._config = config
        self._share = share
        self._pin = pin
        self._buckets = (
            SizeBuckets.of([spec.resized_hw(image.size_hw) for image in images])
            if config.bucket_by_size
            else None
        )
        self._cache: dict[int, torch.Tensor] = {}
        # Each loader process has a cache of its own; together they stay within the bound.
        self._cache_left_bytes = config.cache_mb * 2**20 // max(1, config.loader_workers)

    def batches(self, first_step: int, last_step: int) -> Generator[list[Batch], None, None]:
        """The parts of the batches of steps `first_step` to `last_step - 1`; see `parts`.

        Close it, or the thread or the processes that work ahead go on until it is forgotten.
        """
        steps = range(first_step, last_step)
        workers = self._config.loader_workers
        if workers:
            return ahead.in_processes(self.parts, steps, workers=workers, pin=self._pin)
        return ahead.in_thread(self.parts, steps, pin=self._pin)

    def parts(self, step: int) -> list[Batch]:
        """What this worker learns from in a step, one batch for each of `accumulation_steps`."""
        return [self.batch(step, part) for part in range(self._config.accumulation_steps)]

    def batch(self, step: int, part: int = 0) -> Batch:
        """One part of a step for this worker.

        Two parts on one worker are what two workers have of one part: what is learnt depends on their
        product alone.
        """
        indices = batch_indices(
            step,
            images=len(self._images),
            batch_size=self._config.batch_size,
            seed=self._config.seed,
            buckets=self._buckets,
        )
        first = self._share.stream(part)
        streams = self._share.world_size * self._config.accumulation_steps
        mine = range(first, len(indices), streams)
        samples = [self._sample(step, position, indices[position]) for position in mine]
        sizes_hw = [(int(s.pixels.shape[1]), int(s.pixels.shape[2])) for s in samples]
        height = -(-max(h for h, _ in sizes_hw) // SIZE_DIVISOR) * SIZE_DIVISOR
        width = -(-max(w for _, w in sizes_hw) // SIZE_DIVISOR) * SIZE_DIVISOR
        padded = [
            F.pad(sample.pixels, (0, width - w, 0, height - h))
            for sample, (h, w) in zip(samples, sizes_hw, strict=True)
        ]
        return Batch(
            torch.stack(padded),
            sizes_hw,
            [{"boxes": s.boxes_xyxy, "labels": s.class_ids} for s in samples],
            [self._images[indices[position]].name for position in mine],
            sum(sample.dropped for sample in samples),
        )

    def _sample(self, step: int, position: int, index: int) -> Sample:
        rng = np.random.default_rng((self._config.seed, step, position, 1))
        others = [self._picture(i) for i in partners(len(self._images), self._config, rng)]
        return augment(self._picture(index), self._spec, self._config, rng, others)

    def _picture(self, index: int) -> Picture:
        return picture_to_learn(self._images[index], self._decoded(index), self._class_map)

    def _decoded(self, index: int) -> torch.Tensor:
        if index in self._cache:
            return self._cache[index]
        pixels = decode_to_learn(self._images[index], self._spec, self._config)
        if pixels.nbytes <= self._cache_left_bytes:
            self._cache_left_bytes -= pixels.nbytes
            self._cache[index] = pixels
        return pixels


def picture_to_learn(
    image: AnnotatedImage, pixels: torch.Tensor, class_map: Mapping[str, int]
) -> Picture:
    """A picture with the objects to learn: all but those that stand for a crowd."""
    learnt = ~image.crowd
    class_ids = np.array([class_map[name] for name in image.label_names], np.int64)
    return Picture(pixels, image.boxes_xyxy[learnt], class_ids[learnt], image.size_hw)


def decode_to_learn(image: AnnotatedImage, spec: ModelSpec, config: TrainingConfig) -> torch.Tensor:
    """uint8 `[3, h, w]`, no larger than augmentation ever looks at it.

    Raises:
        DatasetError: The picture has another size than when it was listed.
        ImageError: It is no picture any more.
        StorageError: It cannot be read.
    """
    closest_px = 1.5 * spec.shorter_side_px / (config.crop_smallest if config.crop else 1)
    decoded = decode_image(
        storage.read_bytes(image.storage_path),
        source=image.storage_path,
        min_shorter_side_px=round(closest_px * 4 / 3),
    )
    if decoded.size_hw != image.size_hw:
        raise DatasetError(
            "A picture has changed since its annotation was read",
            where=image.storage_path,
            got="{1}x{0} pixels".format(*decoded.size_hw),
            expected="{1}x{0}".format(*image.size_hw),
            hint="Start again with the picture as it is now",
        )
    pixels = decoded.pixels
    if min(pixels.shape[1:]) > closest_px:
        scale = closest_px / min(pixels.shape[1:])
        smaller_hw = (round(pixels.shape[1] * scale), round(pixels.shape[2] * scale))
        pixels = resize(pixels, smaller_hw, antialias=True).round().to(torch.uint8)
    return pixels

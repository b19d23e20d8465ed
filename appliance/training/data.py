"""From annotated pictures to batches, one step ahead of the network.

Everything random is a function of (seed, step, position), never of what was drawn before: a run that
resumes at step 137 sees what it would have seen, and no sampler or generator state need be saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from appliance import storage
from appliance.annotations.dataset import AnnotatedImage
from appliance.images.decoding import decode_image
from appliance.labels import LabelMap
from appliance.model.predictor import SIZE_DIVISOR, resize
from appliance.model.spec import ModelSpec
from appliance.training.augmentation import augment
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
    """

    pixels: torch.Tensor
    sizes_hw: list[tuple[int, int]]
    targets: list[dict[str, torch.Tensor]]
    names: list[str]


@dataclass(frozen=True)
class Share:
    """Which part of every batch a worker takes.

    Attributes:
        rank: Of this worker, from 0.
        world_size: Number of workers.
    """

    rank: int = 0
    world_size: int = 1


def batch_indices(step: int, *, images: int, batch_size: int, seed: int) -> list[int]:
    """The pictures of one step over all workers: shuffled passes over the data, laid end to end."""
    first = step * batch_size
    indices: list[int] = []
    for position in range(first, first + batch_size):
        epoch, offset = divmod(position, images)
        order = np.random.default_rng((seed, epoch)).permutation(images)
        indices.append(int(order[offset]))
    return indices


class BatchLoader:
    """Makes the batches of a worker, each while the step before it is computed.

    Args:
        images: The annotated pictures of the whole data set.
        labels: The classes of the model.
        spec: Says at which size pictures enter the network.
        config: Batch size, augmentation, seed, cache.
        share: This worker's part.
    """

    def __init__(
        self,
        images: Sequence[AnnotatedImage],
        labels: LabelMap,
        spec: ModelSpec,
        config: TrainingConfig,
        share: Share = Share(),
    ) -> None:
        self._images = images
        self._class_map = labels.class_map
        self._spec = spec
        self._config = config
        self._share = share
        self._cache: dict[int, torch.Tensor] = {}
        self._cache_left_bytes = config.cache_mb * 2**20

    def batches(self, first_step: int, last_step: int) -> Iterator[Batch]:
        """The batches of steps `first_step` to `last_step - 1`."""
        with ThreadPoolExecutor(1, "batch-loader") as ahead:
            pending = ahead.submit(self.batch, first_step)
            for step in range(first_step, last_step):
                batch = pending.result()
                if step + 1 < last_step:
                    pending = ahead.submit(self.batch, step + 1)
                yield batch

    def batch(self, step: int) -> Batch:
        """The batch of one step for this worker."""
        indices = batch_indices(
            step,
            images=len(self._images),
            batch_size=self._config.batch_size,
            seed=self._config.seed,
        )
        mine = range(self._share.rank, len(indices), self._share.world_size)
        samples = [self._sample(step, position, indices[position]) for position in mine]
        sizes_hw = [(int(p.shape[1]), int(p.shape[2])) for p, _ in samples]
        height = -(-max(h for h, _ in sizes_hw) // SIZE_DIVISOR) * SIZE_DIVISOR
        width = -(-max(w for _, w in sizes_hw) // SIZE_DIVISOR) * SIZE_DIVISOR
        padded = [F.pad(p, (0, width - p.shape[2], 0, height - p.shape[1])) for p, _ in samples]
        return Batch(
            torch.stack(padded),
            sizes_hw,
            [target for _, target in samples],
            [self._images[indices[position]].name for position in mine],
        )

    def _sample(
        self, step: int, position: int, index: int
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        image = self._images[index]
        rng = np.random.default_rng((self._config.seed, step, position, 1))
        class_ids = [self._class_map[name] for name in image.label_names]
        pixels, boxes_xyxy, kept = augment(
            self._decoded(index), image.boxes_xyxy, image.size_hw, self._spec, self._config, rng
        )
        return pixels, {
            "boxes": torch.from_numpy(boxes_xyxy),
            "labels": torch.tensor(class_ids, dtype=torch.int64)[torch.from_numpy(kept)],
        }

    def _decoded(self, index: int) -> torch.Tensor:
        if index in self._cache:
            return self._cache[index]
        image = self._images[index]
        pixels = decode_image(
            storage.read_bytes(image.storage_path),
            source=image.storage_path,
            min_shorter_side_px=2 * self._spec.shorter_side_px,
        ).pixels
        if min(pixels.shape[1:]) > 1.5 * self._spec.shorter_side_px:
            # Nothing below ever looks closer than this, and the cache holds more.
            scale = 1.5 * self._spec.shorter_side_px / min(pixels.shape[1:])
            smaller_hw = (round(pixels.shape[1] * scale), round(pixels.shape[2] * scale))
            pixels = resize(pixels, smaller_hw).round().to(torch.uint8)
        if pixels.nbytes <= self._cache_left_bytes:
            self._cache_left_bytes -= pixels.nbytes
            self._cache[index] = pixels
        return pixels

"""From annotated pictures to batches, one step ahead of the network.

Everything random is a function of (seed, step, position), never of what was drawn before: a run that
resumes at step 137 sees what it would have seen, and no sampler or generator state need be saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from appliance import storage
from appliance.annotations.dataset import AnnotatedImage
from appliance.errors import DatasetError
from appliance.images.decoding import decode_image
from appliance.labels import LabelMap
from appliance.model.inference.resizing import SIZE_DIVISOR, resize
from appliance.model.spec import ModelSpec
from appliance.training.augmentation import Picture, Sample, augment, partners
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

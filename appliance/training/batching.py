"""Which pictures make up which step: shuffled passes over the data, laid end to end.

Everything is a function of seed and step, so that a run that goes on at step 137 needs nothing but the
number. A batch may hold the end of one pass and the beginning of the next; each pass holds every picture
once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from appliance.model.inference.resizing import SIZE_DIVISOR


@dataclass(frozen=True, eq=False)
class SizeBuckets:
    """Of which pictures a batch needs little padding.

    Attributes:
        bucket_of: int64 `[images]`; pictures of the same number fill the same padded input, those of
            neighbouring numbers a similar one.
    """

    bucket_of: npt.NDArray[np.int64]

    @classmethod
    def of(cls, inputs_hw: Sequence[tuple[int, int]]) -> SizeBuckets:
        """Buckets by the shape of the padded input, from wide to tall and then by area.

        Args:
            inputs_hw: Height and width at which each picture enters the network.
        """
        padded_hw = -(-np.asarray(inputs_hw, np.int64) // SIZE_DIVISOR)
        shapes, bucket_of = np.unique(padded_hw, axis=0, return_inverse=True)
        rank = np.empty(len(shapes), np.int64)
        rank[np.lexsort((shapes.prod(1), shapes[:, 0] / shapes[:, 1]))] = np.arange(len(shapes))
        return cls(rank[bucket_of.reshape(-1)])


def batch_indices(
    step: int, *, images: int, batch_size: int, seed: int, buckets: SizeBuckets | None = None
) -> list[int]:
    """The pictures of one step over all workers.

    Args:
        step: Counted from 0.
        images: Pictures of the data set.
        batch_size: Pictures a step.
        seed: Of the order.
        buckets: Pictures of one bucket come together as far as they can.
    """
    indices: list[int] = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, images)
        indices.append(int(_order(epoch, images, batch_size, seed, buckets)[offset]))
    return indices


@lru_cache(maxsize=4)
def _order(
    epoch: int, images: int, batch_size: int, seed: int, buckets: SizeBuckets | None
) -> npt.NDArray[np.int64]:
    """The order of one pass.

    With buckets: the pictures of the two batches that it shares with its neighbours are any, all others
    are sorted by bucket (at random within one) and cut into batches, which come in any order.
    """
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(images)
    if buckets is None:
        return order
    head = min(-epoch * images % batch_size, images)
    whole = (images - head) // batch_size
    middle = order[head : head + whole * batch_size]
    middle = middle[np.argsort(buckets.bucket_of[middle], kind="stable")]
    batches = middle.reshape(whole, batch_size)[rng.permutation(whole)]
    return np.concatenate([order[:head], batches.reshape(-1), order[head + whole * batch_size :]])

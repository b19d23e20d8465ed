"""Dividing pictures so that each label is shared out in about the same proportion."""

from __future__ import annotations

import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Sequence

_NOTHING = frozenset({""})  # pictures without objects are shared out like those of a label


def stratified_indices(
    label_sets: Sequence[frozenset[str]], train_size: float, seed: int
) -> set[int]:
    """Which pictures to train on: iterative stratification, the rarest label first.

    Each picture goes to the part that still lacks most of its rarest label, so that a label that occurs
    once is trained on. Time grows with the number of labels on all pictures, times its logarithm.

    Args:
        label_sets: The labels that each picture shows; at least two pictures.
        train_size: Share of the pictures, above 0 and below 1; each part gets at least one.
        seed: Decides among pictures that are equally good.

    Returns:
        Indices into `label_sets`.
    """
    total = len(label_sets)
    label_sets = [labels or _NOTHING for labels in label_sets]
    train_room = _train_room(total, train_size)
    room = {True: train_room, False: total - train_room}
    left = Counter(label for labels in label_sets for label in labels)
    lacking = {
        (label, in_train): count * room[in_train] / total
        for label, count in left.items()
        for in_train in (True, False)
    }
    waiting: defaultdict[str, list[int]] = defaultdict(list)  # label -> pictures, the next one last
    for index in reversed(_shuffled(total, seed)):
        for label in label_sets[index]:
            waiting[label].append(index)
    # Counts only fall: each fall is pushed, and what is out of date is skipped when it comes up.
    rarest_first = [(count, label) for label, count in left.items()]
    heapq.heapify(rarest_first)
    placed: set[int] = set()
    chosen: set[int] = set()
    while rarest_first:
        count, rarest = heapq.heappop(rarest_first)
        if count != left[rarest]:
            continue
        while (index := waiting[rarest].pop()) in placed:
            pass
        placed.add(index)
        need = {
            # Rounded, so that equal needs stay equal and training wins the tie.
            in_train: (round(lacking[rarest, in_train], 6), room[in_train], in_train)
            for in_train in (True, False)
            if room[in_train] > 0
        }
        in_train = max(need, key=lambda part: need[part])
        room[in_train] -= 1
        for label in label_sets[index]:
            lacking[label, in_train] -= 1
            left[label] -= 1
            if left[label]:
                heapq.heappush(rarest_first, (left[label], label))
        if in_train:
            chosen.add(index)
    return chosen


def random_indices(total: int, train_size: float, seed: int) -> set[int]:
    """Which of `total` pictures to train on, by chance alone."""
    return set(_shuffled(total, seed)[: _train_room(total, train_size)])


def _train_room(total: int, train_size: float) -> int:
    return min(max(round(total * train_size), 1), total - 1)


def _shuffled(total: int, seed: int) -> list[int]:
    indices = list(range(total))
    random.Random(seed).shuffle(indices)
    return indices

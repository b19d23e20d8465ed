"""Dividing pictures so that each label is shared out in about the same proportion."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence


def stratified_indices(
    label_sets: Sequence[frozenset[str]], train_size: float, seed: int
) -> set[int]:
    """Which pictures to train on: iterative stratification, the rarest label first.

    Each picture goes to the part that still lacks most of its rarest label, so that a label that occurs
    once is trained on.

    Args:
        label_sets: The labels that each picture shows; at least two pictures.
        train_size: Share of the pictures, above 0 and below 1; each part gets at least one.
        seed: Decides among pictures that are equally good.

    Returns:
        Indices into `label_sets`.
    """
    total = len(label_sets)
    train_room = min(max(round(total * train_size), 1), total - 1)
    room = {True: train_room, False: total - train_room}
    occurrences = Counter(label for labels in label_sets for label in labels)
    lacking = {
        (label, in_train): count * room[in_train] / total
        for label, count in occurrences.items()
        for in_train in (True, False)
    }
    waiting = list(range(total))
    random.Random(seed).shuffle(waiting)
    chosen: set[int] = set()
    while waiting:
        left = Counter(label for index in waiting for label in label_sets[index])
        rarest = min(left, key=lambda label: (left[label], label), default=None)
        index = next(i for i in waiting if rarest is None or rarest in label_sets[i])
        waiting.remove(index)
        need = {
            # Rounded, so that equal needs stay equal and training wins the tie.
            in_train: (
                0.0 if rarest is None else round(lacking[rarest, in_train], 6),
                room[in_train],
                in_train,
            )
            for in_train in (True, False)
            if room[in_train] > 0
        }
        in_train = max(need, key=lambda part: need[part])
        room[in_train] -= 1
        for label in label_sets[index]:
            lacking[label, in_train] -= 1
        if in_train:
            chosen.add(index)
    return chosen

"""Which pictures make up which step: every one once a pass, like sizes together, nothing to remember."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from factories import jpeg_bytes, plan_for
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.annotations.dataset import AnnotatedImage
from appliance.training.batching import SizeBuckets, batch_indices
from appliance.training.config import TrainingConfig
from appliance.training.data import BatchLoader, Share

SHAPES_HW = [(320, 480), (480, 320), (320, 320), (320, 330), (90, 480)]


def passes(images: int, batch_size: int, seed: int, buckets: SizeBuckets | None) -> list[list[int]]:
    """The steps of two whole passes and a little more."""
    return [
        batch_indices(step, images=images, batch_size=batch_size, seed=seed, buckets=buckets)
        for step in range(-(-2 * images // batch_size))
    ]


def test_every_picture_comes_once_a_pass_and_order_depends_on_the_seed_alone() -> None:
    steps = [batch_indices(step, images=10, batch_size=4, seed=7) for step in range(5)]
    flat = [index for step in steps for index in step]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert batch_indices(3, images=10, batch_size=4, seed=7) == steps[3]
    assert batch_indices(3, images=10, batch_size=4, seed=8) != steps[3]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.sampled_from(SHAPES_HW), min_size=1, max_size=40),
    st.integers(1, 9),
    st.integers(0, 5),
)
def test_buckets_keep_every_picture_once_a_pass(shapes_hw, batch_size: int, seed: int) -> None:
    images = len(shapes_hw)
    buckets = SizeBuckets.of(shapes_hw)
    steps = passes(images, batch_size, seed, buckets)
    flat = [index for step in steps for index in step]
    for epoch in range(2):
        assert sorted(flat[epoch * images : (epoch + 1) * images]) == list(range(images))
    # Asked for alone and with buckets made anew, as after a resume, a step is the same.
    last = len(steps) - 1
    again = SizeBuckets.of(shapes_hw)
    assert steps[last] == batch_indices(
        last, images=images, batch_size=batch_size, seed=seed, buckets=again
    )


def test_pictures_of_one_padded_size_share_a_batch_and_neighbours_are_alike() -> None:
    wide, tall, square, nearly_square, banner = SizeBuckets.of(SHAPES_HW).bucket_of
    # The nearly square one is padded to 320 x 352, wider than tall.
    assert banner < wide < nearly_square < square < tall
    assert SizeBuckets.of([(320, 321), (320, 352)]).bucket_of.tolist() == [0, 0]


def test_buckets_need_less_padding_and_come_in_another_order_each_pass() -> None:
    rng = np.random.default_rng(0)
    shapes_hw = [SHAPES_HW[i] for i in rng.integers(len(SHAPES_HW), size=64)]
    buckets = SizeBuckets.of(shapes_hw)

    def kinds(step: list[int]) -> int:
        return len({shapes_hw[index] for index in step})

    bucketed, plain = passes(64, 8, 1, buckets), passes(64, 8, 1, None)
    # Eight batches a pass and five sizes: at most four of them hold the border between two sizes.
    assert sum(kinds(step) == 1 for step in bucketed[:8]) >= 4
    assert sum(map(kinds, bucketed)) < 0.5 * sum(map(kinds, plain))
    assert bucketed[:8] != bucketed[8:]
    assert {frozenset(step) for step in bucketed[:8]} != {frozenset(step) for step in bucketed[8:]}


def test_the_loader_fills_batches_from_buckets(tmp_path, tiny_scenes) -> None:
    """Pictures that stand upright and lie flat, by turns: together all are padded to a square."""
    images = []
    for number in range(6):
        width, height = (96, 64) if number % 2 else (64, 96)
        path = tmp_path / f"{number}.jpg"
        path.write_bytes(jpeg_bytes((width, height), number))
        none = np.zeros((0, 4)), (), np.zeros(0, bool)
        images.append(AnnotatedImage(str(path), path.name, (height, width), *none))
    plan = plan_for(tiny_scenes, batch_size=3, scale_jitter=0.0)
    shapes = {}
    for by_size in (True, False):
        settings_ = replace(plan.config, bucket_by_size=by_size)
        loader = BatchLoader(images, plan.spec.label_map, plan.spec, settings_)
        batches = [loader.batch(step) for step in range(6)]
        assert sorted(name for b in batches[:2] for name in b.names) == [i.name for i in images]
        shapes[by_size] = [tuple(batch.pixels.shape[2:]) for batch in batches]
    assert set(shapes[True]) == {(96, 160), (160, 96)}
    assert (160, 160) in shapes[False]


def test_workers_and_parts_share_a_batch_without_gap_or_overlap(tiny_scenes) -> None:
    spec = plan_for(tiny_scenes).spec
    config = TrainingConfig(batch_size=4)

    def loader(settings: TrainingConfig, share: Share) -> BatchLoader:
        return BatchLoader(tiny_scenes.images, spec.label_map, spec, settings, share)

    whole = loader(config, Share()).batch(2)
    two = [loader(config, Share(rank, 2)).batch(2) for rank in range(2)]
    assert [name for pair in zip(*(s.names for s in two), strict=True) for name in pair] == (
        whole.names
    )
    torch.testing.assert_close(two[1].targets[0]["boxes"], whole.targets[1]["boxes"])
    # Four workers, two workers of two parts, one of four: the same four quarters.
    quarters = [loader(config, Share(rank, 4)).parts(2)[0] for rank in range(4)]
    halves = [
        loader(replace(config, accumulation_steps=2), Share(rank, 2)).parts(2) for rank in range(2)
    ]
    alone = loader(replace(config, accumulation_steps=4), Share()).parts(2)
    for found in (alone, [halves[0][0], halves[1][0], halves[0][1], halves[1][1]]):
        for quarter, part in zip(quarters, found, strict=True):
            assert quarter.names == part.names
            assert torch.equal(quarter.pixels, part.pixels)

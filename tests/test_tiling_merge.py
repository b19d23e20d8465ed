"""What was found on a picture and its tiles becomes one answer: by hand, and against the rule without arrays."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.detections import Detections
from appliance.model.tiling import TileDetections, Tiling, merge

Found = tuple[int, float, tuple[float, float, float, float]]

# --- One answer, by hand -----------------------------------------------------------------------------

# A picture of 200 x 100 and its two tiles: 0..112 and 88..200 across.
SIZE_HW = (100, 200)
LEFT, RIGHT = (0.0, 0.0, 112.0, 100.0), (88.0, 0.0, 200.0, 100.0)


def found(*boxes: Found) -> Detections:
    """Detections of the picture from (class id, score, box)."""
    ordered = sorted(boxes, key=lambda box: -box[1])
    return Detections(
        np.array([box for _, _, box in ordered], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in ordered], np.float32),
        np.array([class_id for class_id, _, _ in ordered], np.int64),
        SIZE_HW,
    )


def merged(
    whole: Sequence[Found] = (),
    left: Sequence[Found] = (),
    right: Sequence[Found] = (),
    **options: object,
) -> list[Found]:
    """What `merge` answers for the picture and its two tiles."""
    answer = merge(
        found(*whole),
        [TileDetections(found(*left), LEFT), TileDetections(found(*right), RIGHT)],
        **{"nms_iou_threshold": 0.5, "max_detections": 100, **options},
    )
    assert answer.size_hw == SIZE_HW
    return rows(answer)


def rows(detections: Detections) -> list[Found]:
    return [
        (int(class_id), round(float(score), 4), tuple(box.tolist()))
        for class_id, score, box in zip(
            detections.class_ids, detections.scores, detections.boxes_xyxy, strict=True
        )
    ]


def test_the_two_tiles_are_those_of_a_tiling() -> None:
    assert Tiling(1, 2, 0.2).windows(SIZE_HW) == (LEFT, RIGHT)


def test_an_object_across_a_border_is_one_box_even_if_its_part_scores_better() -> None:
    full, part = (1, 0.6, (90, 20, 130, 60)), (1, 0.95, (90, 20, 111.5, 60))
    assert merged(left=[part], right=[full]) == [full]


def test_an_object_in_the_overlap_of_tiles_is_one_box() -> None:
    once, again = (1, 0.9, (92, 20, 108, 40)), (1, 0.8, (92, 21, 108, 40))
    assert merged(left=[again], right=[once], whole=[again]) == [once]


def test_an_object_larger_than_a_tile_is_the_box_of_the_whole_picture() -> None:
    full = (1, 0.5, (20, 10, 180, 90))
    left, right = (1, 0.9, (21, 10, 112, 90)), (1, 0.95, (88, 11, 178, 90))
    assert merged([full], [left], [right]) == [full]


def test_what_only_cut_boxes_show_is_not_lost() -> None:
    left, right = (1, 0.9, (20, 10, 112, 90)), (1, 0.8, (88, 10, 180, 90))
    assert merged(left=[left], right=[right]) == [left, right]
    assert merged(left=[left]) == [left]


def test_two_close_objects_of_one_class_stay_two() -> None:
    cut, near = (1, 0.9, (70, 20, 112, 60)), (1, 0.8, (100, 20, 140, 60))
    assert merged(left=[cut], right=[near]) == [cut, near]
    both = [(1, 0.9, (60, 20, 84, 60)), (1, 0.8, (82, 20, 106, 60))]
    assert merged(whole=both, left=both) == both


def test_a_cut_object_outlives_a_small_one_before_it() -> None:
    # All of the small one lies in the cut one; the other way round it is little.
    cut, small = (1, 0.7, (60, 10, 112, 90)), (1, 0.9, (90, 40, 111, 60))
    assert merged(left=[cut], right=[small]) == [small, cut]


def test_a_border_of_the_picture_cuts_nothing() -> None:
    # The same two boxes, once at the outer border of the left tile, once at its inner one.
    outer, around = (1, 0.9, (0, 20, 20, 60)), (1, 0.5, (0, 15, 40, 70))
    assert merged(whole=[around], left=[outer]) == [outer, around]
    inner, around = (1, 0.9, (92, 20, 112, 60)), (1, 0.5, (72, 15, 112, 70))
    assert merged(whole=[around], left=[inner]) == [around]


def test_cut_is_what_ends_within_a_hundredth_of_the_side() -> None:
    full = (1, 0.8, (90, 20, 140, 60))
    assert merged(left=[(1, 0.9, (90, 20, 111, 60))], right=[full]) == [full]
    free = (1, 0.9, (90, 20, 110.75, 60))
    assert merged(left=[free], right=[full]) == [free, full]


def test_a_box_that_ends_before_the_border_is_not_the_whole_of_a_cut_one() -> None:
    cut, other = (1, 0.9, (100, 20, 112, 60)), (1, 0.8, (60, 20, 111, 60))
    assert merged(whole=[other], left=[cut]) == [cut, other]


def test_a_faint_box_does_not_stand_for_a_clear_one() -> None:
    cut = (1, 0.9, (90, 20, 112, 60))
    faint, enough = (1, 0.44, (80, 20, 150, 60)), (1, 0.46, (80, 20, 150, 60))
    assert merged(whole=[faint], left=[cut]) == [cut, faint]
    assert merged(whole=[enough], left=[cut]) == [enough]


def test_classes_are_apart_unless_the_predictor_takes_them_together() -> None:
    part, full = (2, 0.9, (90, 20, 112, 60)), (1, 0.8, (90, 20, 150, 60))
    assert merged(left=[part], right=[full]) == [part, full]
    assert merged(left=[part], right=[full], class_agnostic=True) == [full]
    twice = [(1, 0.9, (10, 10, 30, 30)), (2, 0.8, (10, 10, 30, 31))]
    assert merged(whole=twice) == twice
    assert merged(whole=twice, class_agnostic=True) == twice[:1]


def test_of_cut_boxes_the_largest_stays_and_no_two_remove_each_other() -> None:
    # Below each other, three tiles of 100 x 100 that share 60: the middle one sees most.
    size_hw, windows = (180, 100), [(0, 0, 100, 100), (0, 40, 100, 140), (0, 80, 100, 180)]
    boxes = [(10, 20, 50, 100), (10, 40, 50, 140), (10, 80, 50, 120)]
    tiles = [
        TileDetections(
            Detections(np.array([box]), np.array([0.9]), np.array([1]), size_hw),
            tuple(map(float, window)),
        )
        for box, window in zip(boxes, windows, strict=True)
    ]
    answer = merge(Detections.empty(size_hw), tiles, nms_iou_threshold=0.5, max_detections=9)
    # The first is covered by 60 of 80, too little; the third wholly.
    assert sorted(box for _, _, box in rows(answer)) == sorted(boxes[:2])
    twins = [TileDetections(tile.detections, tiles[0].window_xyxy) for tile in tiles[:1] * 2]
    answer = merge(Detections.empty(size_hw), twins, nms_iou_threshold=0.5, max_detections=9)
    assert [box for _, _, box in rows(answer)] == boxes[:1]


def test_parts_within_a_large_object_go_and_what_lies_in_small_ones_stays() -> None:
    part = (1, 0.8, (40, 30, 60, 50))
    # A fifth of both sides of a tile of 112 x 100 is an area of 448.
    large, small = (1, 0.85, (30, 20, 90, 80)), (1, 0.85, (39, 29, 60, 50))
    assert merged(whole=[large], left=[part]) == [large]
    assert merged(whole=[large, part]) == [large, part]  # one view knows what it does
    assert merged(whole=[small], left=[part], nms_iou_threshold=0.95) == [small, part]
    assert merged(whole=[(2, *large[1:])], left=[part]) == [(2, *large[1:]), part]
    better = (1, 0.9, part[2])
    assert merged(whole=[large], left=[better]) == [better, large]


def test_the_best_are_answered_and_nothing_may_be_found() -> None:
    boxes = [(1, 0.9 - 0.1 * i, (20.0 * i, 10, 20.0 * i + 15, 30)) for i in range(5)]
    best = [(1, round(score, 4), box) for _, score, box in boxes[:3]]
    assert merged(whole=boxes[1::2], left=boxes[::2], max_detections=3) == best
    assert merged() == []


def test_of_two_boxes_that_score_alike_the_one_of_the_whole_picture_stays() -> None:
    first, second = (1, 0.5, (10, 10, 30, 30)), (1, 0.5, (10, 11, 30, 30))
    assert merged(whole=[first], left=[second]) == [first]


# --- One answer, against the rule written down without arrays ----------------------------------------


def reference(
    whole: Detections, tiles: Sequence[TileDetections], threshold: float, agnostic: bool
) -> list[Found]:
    """The rule of `merge`, box by box."""
    height, width = whole.size_hw
    views = [(rows(whole), (0, 0, width, height))]
    views += [(rows(tile.detections), tile.window_xyxy) for tile in tiles]
    boxes = [(view, *row) for view, (found_there, _) in enumerate(views) for row in found_there]

    def area(box):
        return (box[2] - box[0]) * (box[3] - box[1])

    def shared(a, b):
        across = min(a[2], b[2]) - max(a[0], b[0])
        down = min(a[3], b[3]) - max(a[1], b[1])
        return max(across, 0) * max(down, 0)

    def cut_sides(view, box):
        left, top, right, bottom = window = views[view][1]
        is_inner = (left > 0, top > 0, right < width, bottom < height)
        lengths = (right - left, bottom - top) * 2
        return [
            side
            for side in range(4)
            if is_inner[side] and abs(box[side] - window[side]) <= 0.01 * lengths[side]
        ]

    def may_be_part(a, b):
        same = agnostic or a[1] == b[1]
        return same and a[0] != b[0] and shared(a[3], b[3]) >= 0.8 * area(a[3])

    def is_part_of_large(a):
        return any(
            may_be_part(a, b)
            and b[0] == 0
            and area(b[3]) > area(a[3])
            and b[2] >= a[2]
            and area(b[3]) >= 0.04 * area(views[a[0]][1])
            for b in boxes
        )

    left_over = [a for a in boxes if not is_part_of_large(a)]
    stand = [a for a in left_over if not cut_sides(a[0], a[3])]
    for a in sorted((a for a in left_over if a not in stand), key=lambda a: -area(a[3])):
        sides = cut_sides(a[0], a[3])

        def reaches(b, a=a, sides=sides):
            return all(b[3][s] <= a[3][s] if s < 2 else b[3][s] >= a[3][s] for s in sides)

        if not any(may_be_part(a, b) and reaches(b) and b[2] >= 0.5 * a[2] for b in stand):
            stand.append(a)
    answer: list[Found] = []
    for _, class_id, score, box in sorted(stand, key=lambda a: -a[2]):
        rivals = [other for c, _, other in answer if agnostic or c == class_id]
        if all(
            shared(box, other) <= threshold * (area(box) + area(other) - shared(box, other))
            for other in rivals
        ):
            answer.append((class_id, score, box))
    return answer


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), agnostic=st.booleans())
def test_merging_follows_its_rule_in_any_order_of_tiles(seed: int, agnostic: bool) -> None:
    rng = np.random.default_rng(seed)
    size_hw = (90, 180)
    windows = [(0, 0, 180, 90), *Tiling(2, 2, 0.2).windows(size_hw)]
    # Boxes of objects that several views see, each a little off and cut by its tile.
    corners = rng.uniform(0, 1, (8, 2)) * (150, 70)
    objects = np.concatenate([corners, corners + rng.uniform(6, 90, (8, 2))], axis=1)
    all_scores = iter((1 + rng.permutation(999)) / 1000)  # no two alike
    views = []
    for x1, y1, x2, y2 in windows:
        boxes = np.clip(objects + rng.normal(0, 1, objects.shape), [x1, y1] * 2, [x2, y2] * 2)
        is_seen = ((boxes[:, 2:] - boxes[:, :2]) > 3).all(axis=1) & (rng.random(8) < 0.8)
        ids = rng.integers(1, 3, 8)
        view = [(int(ids[i]), next(all_scores), tuple(boxes[i])) for i in np.flatnonzero(is_seen)]
        ordered = found(*view)
        views.append(Detections(ordered.boxes_xyxy, ordered.scores, ordered.class_ids, size_hw))
    tiles = [
        TileDetections(view, tuple(map(float, window)))
        for view, window in zip(views[1:], windows[1:], strict=True)
    ]
    options = {"nms_iou_threshold": 0.5, "max_detections": 100, "class_agnostic": agnostic}
    answer = rows(merge(views[0], tiles, **options))
    assert answer == reference(views[0], tiles, 0.5, agnostic)
    assert answer == rows(merge(views[0], tiles[::-1], **options))

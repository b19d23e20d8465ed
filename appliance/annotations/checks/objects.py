"""What is wrong with the annotated objects of one picture: a pure function of boxes, labels and sizes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from appliance.annotations.checks.findings import Finding
from appliance.annotations.placing import ROUNDING_PX, box_fault, format_box, share_inside
from appliance.annotations.source import ObjectAnnotation, numbers_of
from appliance.errors import ConfigError
from appliance.model.spec import ModelSpec

SAME_BOX_IOU = 0.9
WHOLE_PICTURE = 0.98
MAX_ELONGATION = 20.0
# The proposal network takes an anchor for background below IoU 0.3. A square of half the smallest
# anchor's side overlaps that anchor, and every other, by a quarter at most.
_SMALLEST_SHARE_OF_ANCHOR = 0.5

Boxes = npt.NDArray[np.float64]
FindingMaker = Callable[[str, str, int, str], Finding]


@dataclass(frozen=True)
class InputSize:
    """The size at which a model sees pictures, and what it can still see there.

    Attributes:
        spec: Settings of the model, of which only the sizes count.
    """

    spec: ModelSpec

    @classmethod
    def of(cls, shorter_side_px: int | None = None) -> InputSize:
        """The input of the default model, or of one with another shorter side in the same format."""
        default = ModelSpec(labels=("object",))
        if shorter_side_px is None:
            return cls(default)
        if not 32 <= shorter_side_px <= 4096:
            raise ConfigError(
                "The input size is out of range", got=shorter_side_px, expected="32 to 4096 pixels"
            )
        longer = round(shorter_side_px * default.longer_side_px / default.shorter_side_px)
        return cls(default.with_settings(shorter_side_px=shorter_side_px, longer_side_px=longer))

    @property
    def smallest_object_px(self) -> float:
        """Square root of the smallest area, in pixels of the input, that a model can be taught to find."""
        return min(self.spec.anchor_sizes_px) * _SMALLEST_SHARE_OF_ANCHOR

    def scale(self, size_hw: tuple[int, int]) -> float:
        """By how much a picture is enlarged on its way into the network."""
        return self.spec.resized_hw(size_hw)[0] / size_hw[0]


def fault_of(box: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> tuple[str, str] | None:
    """Code and text for a box that cannot be used, None for one that can."""
    if box_fault(box, size_hw) is None:
        return None
    x1, y1, x2, y2 = box.tolist()
    if x2 < x1 or y2 < y1:
        sides = [f"width {x2 - x1:g}"] if x2 < x1 else []
        sides += [f"height {y2 - y1:g}"] if y2 < y1 else []
        return "box-inverted", f"the box has negative {' and '.join(sides)} pixels"
    if x2 == x1 or y2 == y1:
        sides = ["width"] if x2 == x1 else []
        sides += ["height"] if y2 == y1 else []
        return "box-without-area", f"the box has zero {' and '.join(sides)}"
    height, width = size_hw
    distances = {"left": -x2, "top": -y2, "right": x1 - width, "bottom": y1 - height}
    beyond = [f"{px:g} pixels beyond the {side} edge" for side, px in distances.items() if px >= 0]
    picture = f"the picture of {width}x{height} pixels"
    if not beyond:
        outside = math.floor(100 * (1 - share_inside(box, size_hw)))
        reaches = over_edge(box, size_hw)
        what = f"{outside} % of the box lie outside {picture}, it reaches {reaches} edge"
        return "box-mostly-outside", what
    return "box-outside", f"the box lies wholly outside {picture}, {' and '.join(beyond)}"


def over_edge(box: npt.NDArray[np.float64], size_hw: tuple[int, int]) -> str:
    """By how many pixels a box reaches over which edges; "" for none, but for rounding."""
    height, width = size_hw
    x1, y1, x2, y2 = box.tolist()
    over = {"left": -x1, "top": -y1, "right": x2 - width, "bottom": y2 - height}
    return " and ".join(f"{px:g} over the {side}" for side, px in over.items() if px > ROUNDING_PX)


def usable_objects(boxes: Boxes, size_hw: tuple[int, int]) -> list[bool]:
    """Which boxes a model can be trained with, if need be after clipping."""
    return [fault_of(box, size_hw) is None for box in boxes]


def clipped(boxes: Boxes, size_hw: tuple[int, int]) -> Boxes:
    """The part of each box that lies inside the picture."""
    height, width = size_hw
    inside: Boxes = np.clip(boxes, 0, [width, height, width, height])
    return inside


def check_objects(
    objects: Sequence[ObjectAnnotation],
    boxes: Boxes,
    size_hw: tuple[int, int],
    *,
    file: str,
    part: str,
    picture: str,
    input_size: InputSize,
) -> list[Finding]:
    """Looks at every object of one picture, alone and beside the others.

    Args:
        objects: The objects.
        boxes: Where they lie in the upright picture, `[N, 4]` xyxy in pixels, unchecked.
        size_hw: Of the upright picture.
        file: The annotation.
        part: Of the data.
        picture: Its name.
        input_size: Decides what is too small.
    """

    def make(code: str, what: str, number: int, label: str) -> Finding:
        return Finding(code, file, what, part, picture, number, label)

    findings: list[Finding] = []
    numbers = numbers_of(objects)
    for number, item, box in zip(numbers, objects, boxes, strict=True):
        fault = fault_of(box, size_hw)
        faults = _shape_faults(item, box, size_hw, input_size) if fault is None else [fault]
        for code, what in faults:
            findings.append(make(code, f"{what}: {format_box(box)}", number, item.label))
    usable = usable_objects(boxes, size_hw)
    inside = clipped(boxes, size_hw)
    for first, second, overlap in same_boxes(objects, inside, usable):
        item, other = objects[second], objects[first]
        if item.label == other.label:
            what = f"doubles object {numbers[first]}: their boxes overlap with IoU {overlap:.2f}"
            findings.append(make("object-doubled", what, numbers[second], item.label))
        else:
            what = (
                f"has the box of object {numbers[first]} ({other.label}), IoU {overlap:.2f}: "
                f"one of the two labels is wrong"
            )
            findings.append(make("object-contradicted", what, numbers[second], item.label))
    return findings


def same_boxes(
    objects: Sequence[ObjectAnnotation], boxes: Boxes, usable: Sequence[bool]
) -> Iterator[tuple[int, int, float]]:
    """Objects that lie where an earlier one does: (earlier, later, IoU), each later one once.

    Of several earlier ones, one with the same label is named before one with another.

    Args:
        objects: The objects; crowds contain others by their nature and are passed over.
        boxes: Their boxes inside the picture.
        usable: Which boxes to look at.
    """
    compared = np.array([fit and not item.crowd for fit, item in zip(usable, objects, strict=True)])
    labels = np.array([item.label for item in objects], dtype=object)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    for second in range(1, len(objects)):
        if not compared[second]:
            continue
        corners = np.maximum(boxes[:second, :2], boxes[second, :2])
        opposite = np.minimum(boxes[:second, 2:], boxes[second, 2:])
        shared = np.prod(np.clip(opposite - corners, 0, None), axis=1)
        overlaps = np.zeros(second)
        first_ones = compared[:second]
        overlaps[first_ones] = (
            shared[first_ones] / (areas[:second] + areas[second] - shared)[first_ones]
        )
        near = overlaps >= SAME_BOX_IOU
        if near.any():
            alike = near & (labels[:second] == labels[second])
            first = int(np.argmax(np.where(alike if alike.any() else near, overlaps, -1)))
            yield first, second, float(overlaps[first])


def _shape_faults(
    item: ObjectAnnotation,
    box: npt.NDArray[np.float64],
    size_hw: tuple[int, int],
    input_size: InputSize,
) -> Iterator[tuple[str, str]]:
    """Code and text for what is unwise about a box that can be used."""
    height, width = size_hw
    reaches = over_edge(box, size_hw)
    if reaches:
        yield "box-over-edge", f"the box reaches {reaches} edge of {width}x{height} pixels"
    if item.crowd:
        return
    x1, y1, x2, y2 = clipped(box, size_hw).tolist()
    box_width, box_height = x2 - x1, y2 - y1
    if box_width * box_height >= WHOLE_PICTURE * width * height:
        share = box_width * box_height / (width * height)
        yield (
            "object-covers-picture",
            f"the box covers {share:.0%} of the picture: does it label the picture, not an object?",
        )
    elongation = max(box_width / box_height, box_height / box_width)
    if elongation > MAX_ELONGATION:
        yield "object-elongated", f"the box is {elongation:.0f} times as long as wide"
    scale = input_size.scale(size_hw)
    side_px = math.sqrt(box_width * box_height) * scale
    if side_px < input_size.smallest_object_px:
        seen = f"{box_width * scale:.1f}x{box_height * scale:.1f}"
        least = f"{input_size.smallest_object_px:.0f}"
        what = (
            f"is {box_width:g}x{box_height:g} pixels here and {seen} at the model's input (shorter "
            f"side {input_size.spec.shorter_side_px}), where nothing below about {least}x{least} is found"
        )
        yield "object-tiny", what

"""What another number of proposals finds on the same pictures, and how long it takes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.rpn import concat_box_prediction_layers

from appliance import storage
from appliance.annotations.annotated_image import AnnotatedImage
from appliance.detections import Detections
from appliance.images.decoding import DecodedImage, decode_image
from benchmarks.model_speed.accuracy import accuracy
from benchmarks.model_speed.compare import Bench
from benchmarks.model_speed.sides import Reference, ours, to_detections
from benchmarks.model_speed.weights import with_spec

TIMED_PICTURES = 4
CROWDED_FROM = 16
"""Objects; a scene has at most 10, and a shelf four scenes."""
MOST_DROP = 0.001
"""The accuracy that may be paid for time: a tenth of a point."""


class Proposals(NamedTuple):
    """Numbers of proposals: kept of each pyramid level before NMS, and of all after it."""

    pre_nms: int
    post_nms: int


@dataclass(frozen=True)
class Point:
    """What some number of proposals gives.

    Attributes:
        pre_nms: Kept of each pyramid level before NMS.
        post_nms: Kept after it.
        ap50: PASCAL AP at IoU 0.5 on all pictures, 0..1.
        ap50_crowded: On those with dozens of objects.
        coco_ap: On all pictures; None without faster-coco-eval.
        ms_per_image: Of the appliance's predictor, one picture a call; the median round.
        cpu_ms_per_image: Processor time likewise, which other work on the machine disturbs less.
    """

    pre_nms: int
    post_nms: int
    ap50: float
    ap50_crowded: float
    coco_ap: float | None
    ms_per_image: float
    cpu_ms_per_image: float


def curve(bench: Bench, grid: Sequence[Proposals], *, time_rounds: int) -> list[Point]:
    """Accuracy and time of each number of proposals.

    Args:
        bench: One architecture.
        grid: The numbers.
        time_rounds: Rounds over all numbers, of which the median counts.
    """
    network = Reference.of(bench.model, bench.device).network
    pictures = [_decoded(image) for image in bench.images]
    found: dict[Proposals, dict[int, Detections]] = {proposals: {} for proposals in grid}
    for index, picture in enumerate(pictures):
        print(f"picture {index + 1} of {len(pictures)}", file=sys.stderr)
        answers = detections_for(network, picture, grid, bench.device)
        for proposals, detections in zip(grid, answers, strict=True):
            found[proposals][index] = detections
    seconds = _seconds_per_image(bench, pictures[:TIMED_PICTURES], grid, time_rounds)
    points = []
    for proposals in grid:
        everywhere = accuracy(bench.images, found[proposals])
        crowded = {
            index: detections
            for index, detections in found[proposals].items()
            if len(bench.images[index]) >= CROWDED_FROM
        }
        points.append(
            Point(
                *proposals,
                ap50=everywhere.ap50,
                ap50_crowded=accuracy(bench.images, crowded).ap50,
                coco_ap=everywhere.coco_ap,
                ms_per_image=1000 * seconds[proposals][0],
                cpu_ms_per_image=1000 * seconds[proposals][1],
            )
        )
    return points


@torch.inference_mode()
def detections_for(
    network: FasterRCNN,
    picture: DecodedImage,
    grid: Sequence[Proposals],
    device: torch.device,
) -> Iterator[Detections]:
    """What torchvision's modules find on one picture with each number of proposals, in their order.

    The trunk runs once: it knows nothing of proposals.

    Args:
        network: In eval mode; its numbers of proposals are changed.
        picture: One picture.
        grid: The numbers.
        device: Where the network is.
    """
    rpn = network.rpn
    images, _ = network.transform([picture.pixels.to(device).float() / 255])
    features = network.backbone(images.tensors)
    levels = list(features.values())
    objectness, deltas = rpn.head(levels)
    anchors = rpn.anchor_generator(images, levels)
    anchors_per_level = [scores[0].numel() for scores in objectness]
    objectness, deltas = concat_box_prediction_layers(objectness, deltas)
    boxes = rpn.box_coder.decode(deltas, anchors).view(1, -1, 4)
    for proposals in grid:
        # torchvision has no public name for them once a network is built.
        rpn._pre_nms_top_n = {"testing": proposals.pre_nms}  # noqa: SLF001
        rpn._post_nms_top_n = {"testing": proposals.post_nms}  # noqa: SLF001
        kept, _ = rpn.filter_proposals(boxes, objectness, images.image_sizes, anchors_per_level)
        found, _ = network.roi_heads(features, kept, images.image_sizes)
        original_hw = tuple(picture.pixels.shape[1:])
        (placed,) = network.transform.postprocess(found, images.image_sizes, [original_hw])
        yield to_detections({n: v.cpu() for n, v in placed.items()}, picture.size_hw)


def recommended(points: Sequence[Point]) -> Point:
    """The fewest proposals that lose at most `MOST_DROP` against the most, by every figure.

    Not the fastest measured: times are noisy, and fewer are never slower.
    """
    most = max(points, key=lambda point: (point.pre_nms, point.post_nms))

    def loses_little(point: Point) -> bool:
        pairs = (
            (most.ap50, point.ap50),
            (most.ap50_crowded, point.ap50_crowded),
            (most.coco_ap or 0.0, point.coco_ap or 0.0),
        )
        return all(before - after <= MOST_DROP for before, after in pairs)

    enough = [point for point in points if loses_little(point)]
    return min(enough, key=lambda point: (point.post_nms, point.pre_nms))


def _seconds_per_image(
    bench: Bench, pictures: Sequence[DecodedImage], grid: Sequence[Proposals], rounds: int
) -> dict[Proposals, tuple[float, float]]:
    """Wall and processor time, each of its median round."""
    seconds: dict[Proposals, list[tuple[float, float]]] = {proposals: [] for proposals in grid}
    for number in range(rounds):
        print(f"timing, round {number + 1} of {rounds}", file=sys.stderr)
        for proposals in grid:
            spec = bench.model.spec.with_settings(
                proposals_pre_nms=proposals.pre_nms, proposals_post_nms=proposals.post_nms
            )
            predictor = ours(with_spec(bench.model, spec), bench.device, 1)
            predictor.predict(pictures[:1])
            started_s, cpu_started_s = time.perf_counter(), time.process_time()
            for picture in pictures:
                predictor.predict([picture])
            wall_s, cpu_s = time.perf_counter() - started_s, time.process_time() - cpu_started_s
            seconds[proposals].append((wall_s / len(pictures), cpu_s / len(pictures)))
    return {
        proposals: (
            statistics.median(wall_s for wall_s, _ in values),
            statistics.median(cpu_s for _, cpu_s in values),
        )
        for proposals, values in seconds.items()
    }


def _decoded(image: AnnotatedImage) -> DecodedImage:
    return decode_image(storage.read_bytes(image.storage_path), source=image.name)

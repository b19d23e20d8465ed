"""Fast inference: decoded pictures in, one `Detections` each out. Knows nothing of Ray, HTTP or files
other than the model's own.

Pictures share a batch when their inputs have the same padded size. That size follows from the picture
alone, so that a picture gets the same boxes in any company, and padding stays below 32 pixels a side, which
is less than a tenth of ordinary pictures (`MAX_PADDING_SHARE`). On a CPU the network takes them one at a
time: batching gains nothing there.
"""

from __future__ import annotations

import logging
import math
from collections import defaultdict, deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torchvision.models.detection import FasterRCNN

from appliance.detections import Detections
from appliance.errors import ConfigError, LabelError
from appliance.images.decoding import DecodedImage
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.device import resolve_device
from appliance.model.faster_rcnn import IMAGE_MEAN, IMAGE_STD
from appliance.model.host_memory import keep_freed_memory
from appliance.model.inference.cuda_graphs import CudaGraphs
from appliance.model.inference.exact_network import exact_network
from appliance.model.inference.fast_network import FastNetwork
from appliance.model.inference.resizing import padded_hw, to_batch
from appliance.model.inference.selection import BatchDetections, BoxSelection
from appliance.model.inference.stage_times import StageTimes, measured
from appliance.model.spec import ModelSpec, plain_number

logger = logging.getLogger(__name__)


class Predictor:
    """A network made ready for inference. Not for two threads at once.

    Args:
        network: Trained network; it is copied, not changed.
        spec: The settings it was built from.
        model_name: Goes into every record.
        model_version: Goes into every record.
        device: "cpu", "cuda", "cuda:1" or "auto" (the GPU where there is one).
        num_threads: CPU threads of this process, or None to leave them alone.
        score_threshold: Overrides the model's own, 0..1: one for all classes, or one for each label named
            (the others keep the model's).
        max_detections: Overrides the model's own.
        nms_iou_threshold: Overrides the model's own, 0..1.
        class_agnostic_nms: Boxes of different classes suppress each other too.
        labels: Answer with these only; None answers with all.
        batch_size: Pictures through the network at once; None takes 1 on a CPU, 8 on a GPU.
        exact: Run torchvision's own code instead, picture by picture, for comparison.

    Raises:
        ConfigError: There is no such device, or an option is out of range.
        LabelError: A label is unknown to the model.

    Attributes:
        class_agnostic_nms: As given.
        stage_times: Set to a `StageTimes` to measure; None measures nothing.
    """

    def __init__(
        self,
        network: FasterRCNN,
        spec: ModelSpec,
        *,
        model_name: str = "model",
        model_version: str = "0",
        device: str = "auto",
        num_threads: int | None = None,
        score_threshold: float | Mapping[str, float] | None = None,
        max_detections: int | None = None,
        nms_iou_threshold: float | None = None,
        class_agnostic_nms: bool = False,
        labels: Collection[str] | None = None,
        batch_size: int | None = None,
        exact: bool = False,
    ) -> None:
        for name, count in (("num_threads", num_threads), ("batch_size", batch_size)):
            if count is not None and plain_number(name, count, whole=True) < 1:
                raise ConfigError(f"{name} is out of range", got=count, expected=">= 1")
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        by_label = score_threshold if isinstance(score_threshold, Mapping) else {}
        self.spec = spec.with_settings(
            score_threshold=None if isinstance(score_threshold, Mapping) else score_threshold,
            max_detections=max_detections,
            nms_iou_threshold=nms_iou_threshold,
        )
        self.model_name = model_name
        self.model_version = model_version
        self.device = resolve_device(device)
        self.class_agnostic_nms = class_agnostic_nms
        self.stage_times: StageTimes | None = None
        on_gpu = self.device.type == "cuda"
        if not on_gpu:
            keep_freed_memory()
        self.batch_size = batch_size or (8 if on_gpu else 1)
        self._batches_are_halved = False
        self._exact: FasterRCNN | None = None
        if exact:
            if by_label or class_agnostic_nms or labels is not None:
                raise ConfigError(
                    "torchvision's own path has one threshold for all labels and suppresses by class",
                    got="exact=True with a threshold per label, class_agnostic_nms or labels",
                    hint="Leave one of them out",
                )
            self._exact = exact_network(network, self.spec, self.device)
            return
        selection = BoxSelection(
            _score_thresholds(self.spec, by_label, labels),
            self.spec.nms_iou_threshold,
            self.spec.max_detections,
            class_agnostic_nms,
        )
        dtype = torch.float16 if on_gpu else torch.float32
        self._network = FastNetwork(network, selection, self.device, dtype)
        self._graphs = CudaGraphs(self._network) if on_gpu else None
        self._uploads = torch.cuda.Stream(self.device) if on_gpu else None
        # On uint8 values, so that normalising is one pass: (x / 255 - mean) / std.
        mean, std = (
            torch.tensor(values, device=self.device).view(1, 3, 1, 1)
            for values in (IMAGE_MEAN, IMAGE_STD)
        )
        self._scale, self._offset = 1 / (255 * std), -mean / std

    @classmethod
    def load(cls, model_uri: str, **options: Any) -> Predictor:
        """Reads a model file (see `model_file`) and makes it ready.

        Args:
            model_uri: The file.
            options: As for `Predictor`.

        Raises:
            StorageError: The file cannot be read.
            ModelFileError: It is no usable model file.
            ConfigError: There is no such device, or an option is out of range.
            LabelError: A label is unknown to the model.
        """
        loaded = model_file.load(model_uri)
        return cls(
            loaded.network,
            loaded.spec,
            model_name=loaded.name,
            model_version=loaded.version,
            **options,
        )

    @property
    def labels(self) -> LabelMap:
        """The classes the model knows."""
        return self.spec.label_map

    @property
    def min_shorter_side_px(self) -> int:
        """How small `decode_image` may make a picture without the model seeing less."""
        return self.spec.shorter_side_px

    @torch.inference_mode()
    def predict(
        self, images: Sequence[DecodedImage | torch.Tensor | npt.NDArray[np.uint8]]
    ) -> list[Detections]:
        """Detects on any number of pictures of any sizes; results in the order given.

        Args:
            images: From `decode_image`, or RGB as uint8: tensors `[3, h, w]`, arrays `[h, w, 3]`.

        Raises:
            ConfigError: One of them is something else.
        """
        if isinstance(images, DecodedImage) or not isinstance(images, Iterable):
            raise ConfigError(
                "These are no pictures", got=type(images).__name__, expected="a list of them"
            )
        pictures = [DecodedImage.of(image) for image in images]
        if self._exact is not None:
            return [self._predict_exactly(self._exact, picture) for picture in pictures]
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, picture in enumerate(pictures):
            by_size[padded_hw(self._input_hw(picture))].append(index)
        results: dict[int, Detections] = {}
        waiting: tuple[list[int], _Running] | None = None
        buckets = deque(by_size.values())
        # A device computes one batch while the next is uploaded and the one before is read back.
        while buckets:
            bucket = buckets.popleft()
            indices, rest = bucket[: self.batch_size], bucket[self.batch_size :]
            try:
                running = self._start([pictures[index] for index in indices])
            except torch.OutOfMemoryError:
                if self._batches_are_halved or len(indices) == 1:
                    raise
                self._halve_batches()
                buckets.appendleft(bucket)
                continue
            if rest:
                buckets.appendleft(rest)
            if waiting is not None:
                results.update(zip(waiting[0], self._finish(waiting[1]), strict=True))
            waiting = indices, running
        if waiting is not None:
            results.update(zip(waiting[0], self._finish(waiting[1]), strict=True))
        return [results[index] for index in range(len(pictures))]

    def _halve_batches(self) -> None:
        self._batches_are_halved = True
        logger.warning(
            "The memory of %s does not hold %d pictures at once: going on with half as many.",
            self.device,
            self.batch_size,
        )
        self.batch_size = max(1, self.batch_size // 2)
        torch.cuda.empty_cache()

    def _input_hw(self, image: DecodedImage) -> tuple[int, int]:
        return self.spec.resized_hw((int(image.pixels.shape[1]), int(image.pixels.shape[2])))

    def _start(self, images: list[DecodedImage]) -> _Running:
        """Brings a batch on its way; on a GPU without waiting for it."""
        sizes_hw = [self._input_hw(image) for image in images]
        with measured(self.stage_times, "resize"):
            inputs = to_batch(
                [self._upload(image.pixels) for image in images],
                sizes_hw,
                scale=self._scale,
                offset=self._offset,
            )
            sizes_wh = self._upload(
                torch.tensor([(w, h) for h, w in sizes_hw], dtype=torch.float32)
            )
        if self._graphs is not None and self.stage_times is None:
            found = self._graphs(inputs, sizes_wh)
        else:
            found = self._network(inputs, sizes_wh, times=self.stage_times)
        return _Running(images, sizes_hw, inputs, sizes_wh, found)

    def _upload(self, values: torch.Tensor) -> torch.Tensor:
        """To the device, without waiting for what it computes."""
        if self._uploads is None or values.is_cuda:
            return values
        with torch.cuda.stream(self._uploads):
            uploaded = values.pin_memory().to(self.device, non_blocking=True)
        torch.cuda.current_stream(self.device).wait_stream(self._uploads)
        uploaded.record_stream(torch.cuda.current_stream(self.device))
        return uploaded

    def _finish(self, running: _Running) -> list[Detections]:
        found = running.found
        if not bool(found.settled):
            found = self._network(running.inputs, running.sizes_wh, greedy=True)
        boxes_xyxy, scores, class_ids = (
            values.cpu().numpy() for values in (found.boxes_xyxy, found.scores, found.class_ids)
        )
        return [
            _to_detections(boxes_xyxy[i], scores[i], class_ids[i], input_hw, image.size_hw)
            for i, (input_hw, image) in enumerate(
                zip(running.input_sizes_hw, running.images, strict=True)
            )
        ]

    def _predict_exactly(self, network: FasterRCNN, image: DecodedImage) -> Detections:
        found = network([image.pixels.to(self.device).float() / 255])[0]
        height, width = image.pixels.shape[1:]
        boxes_xyxy, scores, class_ids = (
            found[name].cpu().numpy() for name in ("boxes", "scores", "labels")
        )
        return _to_detections(boxes_xyxy, scores, class_ids, (height, width), image.size_hw)


@dataclass(frozen=True, eq=False)
class _Running:
    """A batch on its way through the network."""

    images: list[DecodedImage]
    input_sizes_hw: list[tuple[int, int]]
    inputs: torch.Tensor
    sizes_wh: torch.Tensor
    found: BatchDetections


def _score_thresholds(
    spec: ModelSpec, by_label: Mapping[str, float], labels: Collection[str] | None
) -> tuple[float, ...]:
    """One threshold for each class; infinite for classes that are not asked for."""
    thresholds = [spec.score_threshold] * len(spec.labels)
    for name, threshold in by_label.items():
        if not 0 <= plain_number("score_threshold", threshold, whole=False) <= 1:
            raise ConfigError(
                "A score threshold is out of range", where=name, got=threshold, expected="0..1"
            )
        thresholds[spec.label_map.id_of(name) - 1] = threshold
    if labels is not None:
        if isinstance(labels, str) or not labels:
            raise LabelError(
                "No labels to answer with",
                got=repr(labels),
                expected="a list of names, or None for all",
            )
        wanted = {spec.label_map.id_of(name) for name in labels}
        for index in range(len(thresholds)):
            if index + 1 not in wanted:
                thresholds[index] = math.inf
    return tuple(thresholds)


def _to_detections(
    boxes_xyxy: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    class_ids: npt.NDArray[np.int64],
    input_hw: tuple[int, int],
    size_hw: tuple[int, int],
) -> Detections:
    """From pixels of what the network saw to pixels of the original; drops rows with nothing in them."""
    height, width = size_hw
    limits = np.array([width, height] * 2, np.float32)
    scale_xyxy = np.array([width / input_hw[1], height / input_hw[0]] * 2, np.float32)
    boxes_xyxy = np.clip(boxes_xyxy * scale_xyxy, 0, limits)
    x1, y1, x2, y2 = boxes_xyxy.T
    keep = np.flatnonzero((x2 > x1) & (y2 > y1) & np.isfinite(scores))
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    return Detections(boxes_xyxy[keep], scores[keep], class_ids[keep], size_hw)

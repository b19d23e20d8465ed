"""Fast inference: decoded pictures in, one `Detections` each out. Knows nothing of Ray, HTTP or files
other than the model's own.

The path of a picture: group by input size -> resize and normalise -> trunk (backbone, pyramid) -> RPN ->
box head -> boxes in pixels of the original. Pictures are grouped only with others of exactly their input
size, so that no padding but their own reaches the convolutions, and on a CPU the network takes them one
at a time: batching gains nothing there, and a picture gets the same boxes in any company, bit for bit.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.image_list import ImageList

from appliance.detections import Detections
from appliance.errors import ConfigError
from appliance.images.decoding import DecodedImage
from appliance.labels import LabelMap
from appliance.model import model_file
from appliance.model.faster_rcnn import IMAGE_MEAN, IMAGE_STD
from appliance.model.spec import ModelSpec

SIZE_DIVISOR = 32
"""Inputs are padded to a multiple of the coarsest stride."""


class Predictor:
    """A network made ready for inference. Not for two threads at once.

    Args:
        network: Trained network; it is copied, not changed.
        spec: The settings it was built from.
        model_name: Goes into every record.
        model_version: Goes into every record.
        device: "cpu", "cuda", "cuda:1" or "auto" (the GPU where there is one).
        num_threads: CPU threads of this process, or None to leave them alone.
        score_threshold: Overrides the model's own, 0..1.
        max_detections: Overrides the model's own.
        batch_size: Pictures through the network at once; None takes 1 on a CPU, 8 on a GPU.
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
        score_threshold: float | None = None,
        max_detections: int | None = None,
        batch_size: int | None = None,
    ) -> None:
        if num_threads is not None:
            torch.set_num_threads(num_threads)
        self.spec = spec.with_settings(
            score_threshold=score_threshold, max_detections=max_detections
        )
        self.model_name = model_name
        self.model_version = model_version
        self.device = resolve_device(device)
        self.batch_size = batch_size or (8 if self.device.type == "cuda" else 1)
        self._network = _for_inference(network, self.spec).to(self.device)
        # On uint8 values, so that normalising is one pass: (x / 255 - mean) / std.
        self._mean = torch.tensor(IMAGE_MEAN, device=self.device).view(1, 3, 1, 1) * 255
        self._std = torch.tensor(IMAGE_STD, device=self.device).view(1, 3, 1, 1) * 255

    @classmethod
    def load(
        cls,
        model_uri: str,
        *,
        device: str = "auto",
        num_threads: int | None = None,
        score_threshold: float | None = None,
        max_detections: int | None = None,
    ) -> Predictor:
        """Reads a model file (see `model_file`) and makes it ready.

        Raises:
            StorageError: The file cannot be read.
            ModelFileError: It is no usable model file.
            ConfigError: There is no such device.
        """
        loaded = model_file.load(model_uri)
        return cls(
            loaded.network,
            loaded.spec,
            model_name=loaded.name,
            model_version=loaded.version,
            device=device,
            num_threads=num_threads,
            score_threshold=score_threshold,
            max_detections=max_detections,
        )

    @property
    def labels(self) -> LabelMap:
        """The classes the model knows."""
        return self.spec.label_map

    @property
    def min_shorter_side_px(self) -> int:
        """How small `decode_image` may make a JPEG without the model seeing less."""
        return 2 * self.spec.shorter_side_px

    @torch.inference_mode()
    def predict(self, images: Sequence[DecodedImage]) -> list[Detections]:
        """Detects on any number of pictures of any sizes; results in the order given."""
        results: list[Detections | None] = [None] * len(images)
        for indices in self._batches(images):
            batch = [images[index] for index in indices]
            found = self._predict_batch(batch)
            for index, detections in zip(indices, found, strict=True):
                results[index] = detections
        return [result for result in results if result is not None]

    def _batches(self, images: Sequence[DecodedImage]) -> Iterator[list[int]]:
        by_size: dict[tuple[int, int], list[int]] = defaultdict(list)
        for index, image in enumerate(images):
            by_size[self.spec.resized_hw(image.size_hw)].append(index)
        for indices in by_size.values():
            for start in range(0, len(indices), self.batch_size):
                yield indices[start : start + self.batch_size]

    def _predict_batch(self, images: list[DecodedImage]) -> list[Detections]:
        resized_hw = self.spec.resized_hw(images[0].size_hw)
        inputs = self._prepare(images, resized_hw)
        image_list = ImageList(inputs, [resized_hw] * len(images))
        features = self._network.backbone(inputs)
        proposals, _ = self._network.rpn(image_list, features)
        found, _ = self._network.roi_heads(features, proposals, image_list.image_sizes)
        return [
            self._to_detections(result, resized_hw, image.size_hw)
            for result, image in zip(found, images, strict=True)
        ]

    def _prepare(self, images: list[DecodedImage], resized_hw: tuple[int, int]) -> torch.Tensor:
        """float32 `[B, 3, H, W]`, normalised, padded below and to the right to `SIZE_DIVISOR`."""
        height, width = resized_hw
        resized = [resize(image.pixels.to(self.device), resized_hw) for image in images]
        pixels = (torch.stack(resized) - self._mean) / self._std
        padding = (0, -width % SIZE_DIVISOR, 0, -height % SIZE_DIVISOR)
        return F.pad(pixels, padding).contiguous(memory_format=torch.channels_last)

    def _to_detections(
        self, found: dict[str, torch.Tensor], resized_hw: tuple[int, int], size_hw: tuple[int, int]
    ) -> Detections:
        height, width = size_hw
        scale_xyxy = np.array([width / resized_hw[1], height / resized_hw[0]] * 2, dtype=np.float32)
        boxes_xyxy = found["boxes"].float().cpu().numpy() * scale_xyxy
        boxes_xyxy = np.clip(boxes_xyxy, 0, np.array([width, height] * 2, np.float32))
        x1, y1, x2, y2 = boxes_xyxy.T
        scores = found["scores"].float().cpu().numpy()
        keep = np.flatnonzero((x2 > x1) & (y2 > y1) & np.isfinite(scores))
        keep = keep[np.argsort(-scores[keep], kind="stable")]
        class_ids = found["labels"].cpu().numpy()
        return Detections(boxes_xyxy[keep], scores[keep], class_ids[keep], size_hw)


def resize(pixels: torch.Tensor, resized_hw: tuple[int, int]) -> torch.Tensor:
    """uint8 `[3, h, w]` to float32 `[3, H, W]`, still in 0..255, bilinear with antialiasing.

    Training and inference share it: a network should see pictures as it saw them when it learnt.
    """
    resized: torch.Tensor = F.interpolate(
        pixels[None].float(), size=resized_hw, mode="bilinear", antialias=True
    )[0]
    return resized


def resolve_device(device: str) -> torch.device:
    """The torch device of a name; "auto" is the GPU where there is one.

    Raises:
        ConfigError: There is no such device here.
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        resolved = torch.device(device)
    except RuntimeError:
        raise ConfigError("Unknown device", got=device, expected="auto, cpu or cuda") from None
    if resolved.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError("No GPU here", got=device, hint="Use device cpu or auto")
    return resolved


def fold_batch_norms(module: nn.Module) -> None:
    """Folds every BatchNorm that follows a convolution into it, in place. For eval mode only."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            folded = fuse_conv_bn_eval(previous[1], child)
            _replace_child(module, previous[0], folded)
            _replace_child(module, name, nn.Identity())
        else:
            fold_batch_norms(child)
        previous = (name, child)


def _replace_child(module: nn.Module, name: str, child: nn.Module) -> None:
    # In Sequential and ModuleDict too, a child is replaced by setting the attribute of its name.
    setattr(module, name, child)


def _for_inference(network: FasterRCNN, spec: ModelSpec) -> FasterRCNN:
    ready: FasterRCNN = copy.deepcopy(network).eval().requires_grad_(False)
    fold_batch_norms(ready)
    ready.roi_heads.score_thresh = spec.score_threshold
    ready.roi_heads.detections_per_img = spec.max_detections
    return ready.to(memory_format=torch.channels_last)

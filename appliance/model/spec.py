"""What a detector is, apart from its weights: the settings that a model file carries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from numbers import Integral, Real
from typing import Any

from appliance.errors import ConfigError
from appliance.labels import LabelMap

COMPACT = "fasterrcnn_compact"
TORCHVISION_ARCHITECTURES = (
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
    "fasterrcnn_mobilenet_v3_large_fpn",
    "fasterrcnn_mobilenet_v3_large_320_fpn",
)
ARCHITECTURES = (COMPACT, *TORCHVISION_ARCHITECTURES)

COMPACT_BACKBONES = (
    "resnet18",
    "resnet34",
    "resnet50",
    "mobilenet_v2",
    "mobilenet_v3_small",
    "mobilenet_v3_large",
)

# Shorter and longer side of torchvision's own recipes; ours for compact, see benchmarks.
_SIDES_PX = {
    COMPACT: (384, 640),
    "fasterrcnn_resnet50_fpn": (800, 1333),
    "fasterrcnn_resnet50_fpn_v2": (800, 1333),
    "fasterrcnn_mobilenet_v3_large_fpn": (800, 1333),
    "fasterrcnn_mobilenet_v3_large_320_fpn": (320, 640),
}
# By measurement, see CHANGELOG. The 320 pixels of the smallest have room for no more: torchvision's own numbers.
_PROPOSALS = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": {"proposals_pre_nms": 150, "proposals_post_nms": 150},
    "fasterrcnn_mobilenet_v3_large_fpn": {"proposals_pre_nms": 500, "proposals_post_nms": 500},
    "fasterrcnn_resnet50_fpn": {"proposals_pre_nms": 1000, "proposals_post_nms": 500},
    "fasterrcnn_resnet50_fpn_v2": {"proposals_pre_nms": 1000, "proposals_post_nms": 500},
}


def backbone_of(architecture: str, compact_backbone: str | None) -> str:
    """The torchvision classifier that an architecture's backbone is cut from.

    Args:
        architecture: One of `ARCHITECTURES`.
        compact_backbone: That of the compact architecture; others have theirs by name.
    """
    if architecture == COMPACT:
        return str(compact_backbone)
    return "resnet50" if "resnet50" in architecture else "mobilenet_v3_large"


@dataclass(frozen=True)
class ModelSpec:
    """Everything needed to build the network again and to run it as it was trained.

    Attributes:
        labels: Class names, id 1 first.
        architecture: One of `ARCHITECTURES`.
        backbone: One of `COMPACT_BACKBONES` for compact, else None.
        shorter_side_px: Pictures are resized so that the shorter side has this length ...
        longer_side_px: ... unless the longer one would exceed this.
        fpn_channels: Channels of the feature pyramid (compact only).
        box_head_channels: Width of the box head (compact only).
        anchor_sizes_px: Square root of the anchor areas at strides 8, 16 and 32, in pixels of the
            resized picture (compact only).
        anchor_ratios: Height by width of the anchors at every stride (compact only).
        proposals_pre_nms: Proposals kept per pyramid level before NMS, at inference.
        proposals_post_nms: Proposals that reach the box head, at inference.
        score_threshold: Detections below are dropped, 0..1.
        nms_iou_threshold: Boxes of one class overlapping more are suppressed, 0..1.
        max_detections: At most so many detections a picture.

    Raises:
        ConfigError: A value is out of its range.
        LabelError: The labels are not usable.
    """

    labels: tuple[str, ...]
    architecture: str = COMPACT
    backbone: str | None = "resnet18"
    shorter_side_px: int = 384
    longer_side_px: int = 640
    fpn_channels: int = 96
    box_head_channels: int = 256
    anchor_sizes_px: tuple[int, int, int] = (32, 64, 128)
    anchor_ratios: tuple[float, float, float] = (0.5, 1.0, 2.0)
    proposals_pre_nms: int = 300
    proposals_post_nms: int = 150
    score_threshold: float = 0.05
    nms_iou_threshold: float = 0.5
    max_detections: int = 300

    def __post_init__(self) -> None:
        LabelMap(self.labels)
        for field in fields(self):
            if isinstance(field.default, int | float):
                value = getattr(self, field.name)
                number = plain_number(field.name, value, whole=isinstance(field.default, int))
                object.__setattr__(self, field.name, number)
        _one_of("architecture", self.architecture, ARCHITECTURES)
        if self.architecture == COMPACT:
            _one_of("backbone", self.backbone, COMPACT_BACKBONES)
        if not 32 <= self.shorter_side_px <= self.longer_side_px <= 8192:
            raise ConfigError(
                "The input size is out of range",
                got=f"shorter side {self.shorter_side_px}, longer side {self.longer_side_px}",
                expected="32 <= shorter <= longer <= 8192 pixels",
                hint="Change both, shorter_side_px and longer_side_px",
            )
        for name in ("score_threshold", "nms_iou_threshold"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} is out of range", got=getattr(self, name), expected="0..1"
                )
        for name in ("anchor_sizes_px", "anchor_ratios"):
            if not all(0 < value < 8192 for value in getattr(self, name)):
                raise ConfigError(
                    f"{name} is out of range", got=getattr(self, name), expected="above 0"
                )
        counts = ("proposals_pre_nms", "proposals_post_nms", "max_detections")
        for name in (*counts, "fpn_channels", "box_head_channels"):
            if getattr(self, name) < 1:
                raise ConfigError(
                    f"{name} is out of range", got=getattr(self, name), expected=">= 1"
                )

    @classmethod
    def of(cls, labels: LabelMap, architecture: str = COMPACT, **settings: Any) -> ModelSpec:
        """The defaults of an architecture, with `settings` in their place where given."""
        shorter_side_px, longer_side_px = _SIDES_PX.get(architecture, (384, 640))
        sides = {"shorter_side_px": shorter_side_px, "longer_side_px": longer_side_px}
        if architecture != COMPACT:
            sides |= _PROPOSALS.get(architecture, {})
            settings = {"backbone": None, **settings}
        return cls(labels=labels.names, architecture=architecture, **{**sides, **settings})

    @property
    def label_map(self) -> LabelMap:
        """The labels with their ids."""
        return LabelMap(self.labels)

    def to_json(self) -> dict[str, Any]:
        """Plain values for the model file."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> ModelSpec:
        """Reads `to_json` back; lists become tuples.

        Raises:
            ConfigError: A key is unknown, or a value has the wrong type or range.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(values) - known):
            raise ConfigError("Unknown model setting", got=", ".join(unknown))
        try:
            arguments: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in values.items()
            }
            return cls(**arguments)
        except TypeError as error:
            raise ConfigError("A model setting has the wrong type", got=error) from None

    def with_settings(self, **settings: Any) -> ModelSpec:
        """A copy with some settings replaced; None leaves a setting as it is."""
        return replace(self, **{k: v for k, v in settings.items() if v is not None})

    def resized_hw(self, size_hw: tuple[int, int]) -> tuple[int, int]:
        """The size in pixels at which a picture of `size_hw` enters the network (before padding).

        Rounded down, as in torchvision's `GeneralizedRCNNTransform`.
        """
        height, width = size_hw
        scale = min(self.shorter_side_px / min(size_hw), self.longer_side_px / max(size_hw))
        return max(1, int(height * scale)), max(1, int(width * scale))


def plain_number(name: str, value: object, *, whole: bool) -> float:
    """A setting as a plain number, which JSON can hold where numpy's cannot.

    Args:
        name: Of the setting, for the error.
        value: As the user gave it.
        whole: It has to be a whole number.

    Raises:
        ConfigError: It is something else.
    """
    # bool is a whole number to Python.
    if not isinstance(value, Integral if whole else Real) or isinstance(value, bool):
        raise ConfigError(
            f"{name} has the wrong type",
            got=repr(value)[:40],
            expected="a whole number" if whole else "a number",
        )
    return int(value) if isinstance(value, Integral) and whole else float(value)


def _one_of(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"Unknown {name}", got=value, expected=f"one of {', '.join(allowed)}")

"""Puts one architecture together and compares the two sides at one batch size after the other."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from appliance import storage
from appliance.annotations.annotated_image import AnnotatedImage
from appliance.detections import Detections
from appliance.images.decoding import DecodedImage, decode_image
from appliance.model.host_memory import keep_freed_memory
from appliance.model.inference.stage_times import StageTimes
from appliance.model.model_file import LoadedModel
from appliance.model.predictor import Predictor
from appliance.model.spec import ModelSpec
from benchmarks.model_speed.accuracy import Accuracy, accuracy
from benchmarks.model_speed.cases import Case
from benchmarks.model_speed.pictures import PictureSet, draw_pictures
from benchmarks.model_speed.rounds import SideTimes, alternate
from benchmarks.model_speed.sides import Reference, ours
from benchmarks.model_speed.weights import trained_model


@dataclass(frozen=True, eq=False)
class Bench:
    """One architecture with its weights and pictures, ready to be timed.

    Attributes:
        model: Trained.
        case: What it was trained and is measured on.
        device: Where both sides compute.
        images: Pictures it has not seen.
    """

    model: LoadedModel
    case: Case
    device: torch.device
    images: Sequence[AnnotatedImage]

    @classmethod
    def prepare(cls, spec: ModelSpec, case: Case, device: torch.device, cache_dir: Path) -> Bench:
        """Draws and trains what the cache does not have."""
        model = trained_model(spec, case, device, cache_dir)
        images = draw_pictures(PictureSet("test", case.test_pictures, case.size_wh), cache_dir)
        return cls(model, case, device, images)

    def headline(self) -> str:
        """What is measured, for people."""
        width, height = self.case.size_wh
        input_h, input_w = self.model.spec.resized_hw((height, width))
        training = self.model.info.training
        return (
            f"{self.model.spec.architecture} on {self.device.type}: pictures of {width} x {height}"
            f" at {input_w} x {input_h}; trained {training['steps']} steps in"
            f" {training['minutes']:g} minutes"
        )

    def compare(self, batch: int, rounds: int) -> dict[str, Any]:
        """Times both sides at one batch size.

        Args:
            batch: Pictures a call.
            rounds: Of each side.

        Returns:
            One object of the JSON's `results`.
        """
        started_s = time.perf_counter()
        predictor = ours(self.model, self.device, batch)
        prepare_s = time.perf_counter() - started_s
        reference = Reference.of(self.model, self.device)
        pictures, decode_s = self._decode(predictor)

        def predict(images: Sequence[DecodedImage]) -> list[Detections]:
            keep_freed_memory()  # again, since the other side has taken it back
            return predictor.predict(images)

        per_round = self.case.pictures_per_round.get(batch, batch)
        theirs, mine = alternate(
            reference.predict,
            predict,
            pictures,
            device=self.device,
            batch=batch,
            pictures_per_round=per_round,
            rounds=rounds,
        )
        seen = sorted(mine.detections)
        found = accuracy(self.images, mine.detections)
        reference_found = accuracy(self.images, theirs.detections)
        spec = self.model.spec
        return {
            "arch": spec.architecture,
            "backbone": spec.backbone,
            "device": self.device.type,
            "batch": batch,
            "ratio": _median_ratio(theirs, mine, "wall_s"),
            "cpu_ratio": _median_ratio(theirs, mine, "cpu_s"),
            "ap50_drop_points": 100 * (reference_found.ap50 - found.ap50),
            **_figures(mine, found, ""),
            **_figures(theirs, reference_found, "reference_"),
            "prepare_s": prepare_s,
            "stages": self._stage_shares(predictor, pictures[:per_round], batch, decode_s),
            "decode_ms_per_image": 1000 * decode_s / len(pictures),
            "pictures": len(seen),
            "objects": sum(len(self.images[index]) for index in seen),
            "detections": sum(len(one) for one in mine.detections.values()),
            "reference_detections": sum(len(one) for one in theirs.detections.values()),
            "picture_wh": self.case.size_wh,
            "input_hw": spec.resized_hw(self.case.size_wh[::-1]),
            "proposals": {"pre_nms": spec.proposals_pre_nms, "post_nms": spec.proposals_post_nms},
            "reference_proposals": reference.proposals,
            "weights": self.model.info.training,
        }

    def _decode(self, predictor: Predictor) -> tuple[list[DecodedImage], float]:
        """All pictures as the predictor wants them, and how many seconds decoding took."""
        files = [(image.name, storage.read_bytes(image.storage_path)) for image in self.images]
        started_s = time.perf_counter()
        pictures = [
            decode_image(data, source=name, min_shorter_side_px=predictor.min_shorter_side_px)
            for name, data in files
        ]
        return pictures, time.perf_counter() - started_s

    def _stage_shares(
        self, predictor: Predictor, pictures: Sequence[DecodedImage], batch: int, decode_s: float
    ) -> dict[str, float]:
        """Share of each stage, decoding among them.

        Apart from the rounds, because on a GPU telling stages apart means waiting for each.
        """
        stage_times = StageTimes()
        predictor.stage_times = stage_times
        for start in range(0, len(pictures), batch):
            predictor.predict(pictures[start : start + batch])
        predictor.stage_times = None
        decode_here_s = decode_s * len(pictures) / len(self.images)
        seconds = {"decode": decode_here_s, **stage_times.seconds}
        total_s = sum(seconds.values())
        return {name: value / total_s for name, value in seconds.items()}


def _median_ratio(theirs: SideTimes, mine: SideTimes, what: str) -> float:
    """How many times longer torchvision takes, in the median round."""
    pairs = zip(theirs.rounds, mine.rounds, strict=True)
    ratios = [getattr(one, what) / getattr(other, what) for one, other in pairs]
    return float(statistics.median(ratios))


def _figures(side: SideTimes, found: Accuracy, prefix: str) -> dict[str, Any]:
    figures = {
        **asdict(found),
        "images_per_s": side.images_per_s,
        "cpu_ms_per_image": side.cpu_ms_per_image,
        "latency_ms": side.latency_ms,
        "peak_memory_mib": side.peak_memory_mib,
        "warm_up_s": side.warm_up_s,
        "rounds_wall_s": [one.wall_s for one in side.rounds],
        "rounds_cpu_s": [one.cpu_s for one in side.rounds],
    }
    return {prefix + name: value for name, value in figures.items()}

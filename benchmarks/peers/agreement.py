"""Whether a peer finds what plain torchvision finds with the same weights on the same picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.online.checks import References
from benchmarks.online.pictures import Picture
from benchmarks.online.protocols import Found


def found_of(answer: Any) -> Found:
    """Detections from an answer of `benchmarks.peers.detector.detect`.

    Raises:
        WrongAnswerError: It is none.
    """
    return Found.of(answer["boxes"], answer["scores"], answer["labels"])


def references(
    expected: str, pictures: Sequence[Picture], *, score_threshold: float, max_detections: int
) -> References:
    """What answers are held against from the first on.

    Args:
        expected: JSON file: name of the picture -> an answer of `benchmarks.peers.detector.detect`.
        pictures: All that are sent.
        score_threshold: Lowest score that the model answers.
        max_detections: Most detections of a picture.
    """
    told = json.loads(Path(expected).read_text())
    held = References(score_threshold, max_detections)
    for picture in pictures:
        held.check(found_of(told[picture.name]), picture)
    return held

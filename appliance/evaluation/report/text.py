"""The words of the report: what the figures mean in a sentence, and what to do about each kind of error."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from appliance.evaluation.analysis import Analysis
from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.metrics.average_precision import OperatingPoint

_FEW_PICTURES = 30

# Error -> what it is called, what it is, what to do about it.
_ERRORS = {
    "missed": (
        "Missed",
        "An object that no detection comes near.",
        (
            "Look at the worst pictures below: add examples that look like the missed ones (small, covered, "
            "dark), train at a larger input size, or lower the score threshold."
        ),
    ),
    "background": (
        "Nothing there",
        "A detection where no object is annotated.",
        (
            "First make sure that no object was left without a box. Then add pictures of such places "
            "without any object: they teach the model what to leave alone."
        ),
    ),
    "classification": (
        "Wrong class",
        "The box is right, its class is not.",
        (
            "See which classes are mixed up below; add examples of both, correct mislabelled ones, or merge "
            "classes that people cannot tell apart either."
        ),
    ),
    "localisation": (
        "Wrong place",
        "The class is right, but the box covers its object only in part.",
        (
            "Make sure that boxes in the training data are drawn tight and all in one way; train longer or "
            "at a larger input size."
        ),
    ),
    "both": (
        "Wrong class and place",
        "The box covers an object of another class, and that only in part.",
        (
            "Often parts of objects, or neighbours. Mend the other kinds of errors first; most of these go "
            "with them."
        ),
    ),
    "duplicate": (
        "Found twice",
        "A further detection of an object that was found already.",
        "Raise the score threshold, or lower the overlap from which detections are merged.",
    ),
}


# COCO's figures and what each of them measures.
COCO_FIGURES = {
    "AP": "Average precision, mean over IoU 0.50 to 0.95",
    "AP50": "at IoU 0.50",
    "AP75": "at IoU 0.75: boxes must fit well",
    "APs": "of small objects, below 32 × 32 pixels",
    "APm": "of medium objects",
    "APl": "of large objects, above 96 × 96 pixels",
    "AR1": "Average recall with 1 detection of a class in a picture",
    "AR10": "with 10 detections",
    "AR100": "with 100 detections",
    "ARs": "of small objects",
    "ARm": "of medium objects",
    "ARl": "of large objects",
}


@dataclass(frozen=True)
class ErrorRow:
    """One kind of error, for a reader.

    Attributes:
        name: What it is called.
        meaning: What it is.
        advice: What to do about it.
        count: How often it happened, among the detections that users see.
        faint: How much more often among all of them, also those below the score threshold.
        ap_cost: The average precision it costs: so much more would there be without it, 0..1.
        share: Its cost against the greatest one, 0..1, for a bar.
    """

    name: str
    meaning: str
    advice: str
    count: int
    faint: int
    ap_cost: float
    share: float


def error_rows(analysis: Analysis) -> list[ErrorRow]:
    """The six kinds of errors, the costliest first."""
    kinds = analysis.error_types
    greatest = max(*kinds.ap_cost.values(), 1e-9)
    rows = [
        ErrorRow(
            *_ERRORS[kind],
            count=analysis.error_types_shown.counts[kind],
            faint=max(0, kinds.counts[kind] - analysis.error_types_shown.counts[kind]),
            ap_cost=kinds.ap_cost[kind],
            share=kinds.ap_cost[kind] / greatest,
        )
        for kind in _ERRORS
    ]
    return sorted(rows, key=lambda row: (-row.ap_cost, -row.count))


def score_text(score: float) -> str:
    """A score threshold with two to four digits, rounded down: what reaches it reaches the text too."""
    # The tiny addend is for float32, in which 0.7 is 0.69999999.
    digits = f"{math.floor(1e4 * score + 1e-3) / 1e4:.4f}"
    return digits[:4] + digits[4:].rstrip("0")


def summary(evaluation: EvaluationResult, analysis: Analysis) -> str:
    """What the model does at its best threshold, and what costs it most."""
    best = evaluation.pascal.best
    if best.score_threshold is None:
        return f"The model finds none of {_objects(best)}, at any score threshold."
    found = f"{best.true_positives:,} of {_objects(best)}"
    if not best.false_negatives:
        found = _objects(best) if best.true_positives == 1 else f"every one of {_objects(best)}"
    wrong = f"{best.false_positives:,} wrong ones" if best.false_positives else "no wrong one"
    if best.false_positives == 1:
        wrong = "one wrong one"
    text = (
        f"At a score of {score_text(best.score_threshold)} or more the model finds {found}, "
        f"with {wrong} among its detections."
    )
    worst = error_rows(analysis)[0]
    if worst.ap_cost < 0.0005:
        return text
    return (
        f"{text} What costs most: {worst.name.lower()} ({worst.ap_cost:.3f} of average precision)."
    )


def interval_note(evaluation: EvaluationResult, analysis: Analysis) -> str:
    """How to read the confidence intervals of this evaluation."""
    intervals = analysis.intervals
    text = (
        f"Intervals hold {100 * intervals.level:.0f}\N{NO-BREAK SPACE}% of {intervals.resamples:,} repetitions with "
        f"pictures drawn anew from these {evaluation.num_images:,}."
    )
    if evaluation.num_images < _FEW_PICTURES:
        text += " So few pictures say little about others: take the figures as a first impression."
    return text


def counted(labels: Sequence[str]) -> list[str]:
    """Each label once, with how often it occurs."""
    counts = Counter(labels)
    return [label if count == 1 else f"{label} ×{count}" for label, count in counts.items()]


def _objects(best: OperatingPoint) -> str:
    number = best.true_positives + best.false_negatives
    return "the only object" if number == 1 else f"the {number:,} objects"

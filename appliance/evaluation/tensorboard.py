"""The figures and some pictures of an evaluation, for TensorBoard."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from appliance.evaluation.comparison import Comparison
from appliance.evaluation.evaluate import EvaluationResult


def write_tensorboard(
    eval_dir: str | os.PathLike[str],
    result: EvaluationResult,
    comparisons: Sequence[Comparison] = (),
    *,
    step: int = 0,
) -> None:
    """Writes one event file: a scalar per metric of the contract, and a picture per comparison.

    Args:
        eval_dir: Local folder; made when it is not there.
        result: The figures. A class without objects gets no scalar.
        comparisons: Pictures with truth on the left and predictions on the right.
        step: The training step that the figures belong to.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(eval_dir)) as writer:
        for name, value in result.to_contract_dict().items():
            if math.isfinite(value):
                writer.add_scalar(name, value, step)
        for comparison in comparisons:
            pixels_hwc = np.concatenate(
                [np.asarray(comparison.truth), np.asarray(comparison.prediction)], axis=1
            )
            writer.add_image(
                f"truth_and_predictions/{comparison.name}", pixels_hwc, step, dataformats="HWC"
            )

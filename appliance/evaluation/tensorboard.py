"""The figures, charts and some pictures of an evaluation, for TensorBoard."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from appliance.evaluation.comparison import Comparison, shrunk
from appliance.evaluation.evaluate import EvaluationResult
from appliance.evaluation.report.chart import Chart

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


def write_tensorboard(
    eval_dir: str | os.PathLike[str],
    result: EvaluationResult,
    comparisons: Sequence[Comparison] = (),
    *,
    charts: Sequence[Chart] = (),
    step: int = 0,
) -> None:
    """Writes one event file: a scalar per metric, a picture per chart and per comparison.

    Args:
        eval_dir: Local folder; made when it is not there.
        result: The figures, PASCAL's and COCO's. What there is no object for gets no scalar.
        comparisons: Pictures with truth on the left and predictions on the right.
        charts: From `report.result_charts`, for instance.
        step: The training step that the figures belong to.
    """
    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(str(eval_dir)) as writer:
        for name, value in result.metrics().items():
            if value is not None:
                writer.add_scalar(name, value, step)
        for chart in charts:
            with Image.open(io.BytesIO(chart.png)) as drawn:
                pixels_hwc = np.asarray(drawn.convert("RGB"))
            writer.add_image(f"charts/{chart.name}", pixels_hwc, step, dataformats="HWC")
        for comparison in comparisons:
            add_comparison(writer, comparison, step)


def add_comparison(writer: SummaryWriter, comparison: Comparison, step: int) -> None:
    """Writes one picture: truth on the left, predictions on the right."""
    pixels_hwc = np.concatenate(
        [np.asarray(shrunk(view)) for view in (comparison.truth, comparison.prediction)], axis=1
    )
    writer.add_image(
        f"truth_and_predictions/{comparison.name}", pixels_hwc, step, dataformats="HWC"
    )

"""How training went: loss and learning rate over the steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from appliance.evaluation.report.chart import COLORS, Chart, Ink, thinned

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def training_charts(training_log: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Loss and learning rate over the steps, as far as the log has them."""
    charts = []
    steps, losses = _series(training_log, "loss")
    if len(steps):
        smooth = _smoothed(losses)

        def paint_loss(ax: Axes, _: Ink) -> None:
            ax.plot(*thinned(steps, losses), color=COLORS[0], linewidth=0.8, alpha=0.35)
            ax.plot(*thinned(steps, smooth), color=COLORS[0], linewidth=1.8)
            ax.set(xlabel="step", ylabel="loss", ylim=(0, 1.05 * float(np.quantile(losses, 0.99))))

        charts.append(
            Chart(
                "training_loss",
                "Training loss",
                f"Line chart of the training loss from {smooth[0]:.3g} to {smooth[-1]:.3g} over "
                f"{steps[-1]:.0f} steps.",
                "The sum of all losses: faint at every step, bold as a running mean.",
                paint_loss,
            )
        )
    rate_steps, rates = _series(training_log, "learning_rate")
    if len(rate_steps):

        def paint_rate(ax: Axes, _: Ink) -> None:
            ax.plot(*thinned(rate_steps, rates), color=COLORS[1], linewidth=1.8)
            ax.set(xlabel="step", ylabel="learning rate", ylim=(0, 1.05 * float(rates.max())))

        charts.append(
            Chart(
                "learning_rate",
                "Learning rate",
                f"Line chart of the learning rate, at most {rates.max():.3g}.",
                "The size of the steps that training took.",
                paint_rate,
            )
        )
    return charts


def _series(
    training_log: Sequence[Mapping[str, Any]], key: str
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    points = [(row["step"], row[key]) for row in training_log if row.get(key) is not None]
    steps, values = np.array(points, np.float64).reshape(-1, 2).T
    return steps, values


def _smoothed(values: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Mean over a window of a twentieth of the run around each value, narrower at both ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    start, end = np.maximum(index - half, 0), np.minimum(index + half + 1, len(values))
    mean: npt.NDArray[np.float64] = (sums[end] - sums[start]) / (end - start)
    return mean

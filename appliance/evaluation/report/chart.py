"""One chart, in the three ways it is needed: SVG for a light page, SVG for a dark page, and PNG.

What a chart shows is its painter's business; how it looks, that is ink, grid, fonts and colours, is
decided here. matplotlib is imported by the functions that draw, and its global state stays as it was.
"""

from __future__ import annotations

import base64
import io
import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import numpy.typing as npt

from appliance.images.chart_fonts import any_letters

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Page = Literal["light", "dark"]

# Okabe and Ito's palette; grey for black and a dark yellow, which show on both pages. Curves also differ
# in their dashes, for grey print.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c8c8c", "#a89a00")
DASHES = ("-", "--", "-.", ":")
MARK = "#8c8c8c"
SIZE_INCHES = (4.8, 3.0)
LEGEND_ROW_INCHES = 0.17
_MOST_POINTS = 400
_LONGEST_NAME = 20
_PNG_DPI = 160


@dataclass(frozen=True)
class Ink:
    """The colours that depend on the page.

    Attributes:
        text: Words and numbers.
        grid: Thin lines behind the data.
        page: The page itself.
        scale: From nothing to all, for a map of shares.
    """

    text: str
    grid: str
    page: str
    scale: tuple[str, ...]


INK: dict[Page, Ink] = {
    "light": Ink("#30363d", "#d9dee3", "#ffffff", ("#f3f6f9", "#9ecae8", "#2f86c0", "#083f66")),
    "dark": Ink("#c9d1d9", "#3a424b", "#14181d", ("#1d242b", "#174e74", "#3f97d3", "#c5e4fa")),
}


class Painter(Protocol):
    """Draws the data of a chart on empty axes."""

    def __call__(self, ax: Axes, ink: Ink, /) -> None:
        """Draws on `ax`."""


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: Short and fit for a file name.
        title: Its heading.
        alt: What it shows, for people who do not see it.
        caption: How to read it.
        paint: Draws its data.
        size_inches: Width and height.
        is_map: Whether its cells carry colours of the page's scale; such a chart has no grid.
        grid_axis: Which lines help to read it.
        is_wide: Whether it needs the width of the page.
    """

    name: str
    title: str
    alt: str
    caption: str
    paint: Painter
    size_inches: tuple[float, float] = SIZE_INCHES
    is_map: bool = False
    grid_axis: Literal["both", "x"] = "both"
    is_wide: bool = False

    def svg_uri(self, page: Page) -> str:
        """The chart as a data URI, without background."""
        if self.is_map:
            svg = self._svg(page)
        else:
            # Nothing but ink differs, and laying out a chart twice takes twice as long.
            svg = self._light_svg
            for name in ("text", "grid", "page"):
                svg = svg.replace(getattr(INK["light"], name), getattr(INK[page], name))
        return "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode()

    @cached_property
    def _light_svg(self) -> str:
        return self._svg("light")

    def _svg(self, page: Page) -> str:
        import matplotlib as mpl

        buffer = io.StringIO()
        with any_letters(), mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "report"}):
            self._figure(page).savefig(
                buffer, format="svg", transparent=True, metadata={"Date": None}
            )
        # The reader's own font: names of fonts that only this machine has would be of no use.
        return re.sub(
            r"(font(?:-family)?: [^;\"]*?)'DejaVu Sans'[^;\"]*",
            r"\1system-ui, sans-serif",
            buffer.getvalue(),
        )

    @cached_property
    def png(self) -> bytes:
        """The chart with its title on white, for slides and mails."""
        buffer = io.BytesIO()
        with any_letters():
            figure = self._figure("light")
            figure.suptitle(self.title, fontsize=11, color=INK["light"].text)
            figure.savefig(buffer, format="png", dpi=_PNG_DPI, facecolor="white")
        return buffer.getvalue()

    def _figure(self, page: Page) -> Figure:
        from matplotlib.figure import Figure

        ink = INK[page]
        figure = Figure(figsize=self.size_inches, layout="constrained")
        ax = figure.add_subplot()
        self.paint(ax, ink)
        if not self.is_map:
            ax.grid(axis=self.grid_axis, color=ink.grid, linewidth=0.6)
            ax.set_axisbelow(True)
        ax.tick_params(colors=ink.text, length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
        for text in (ax.xaxis.label, ax.yaxis.label):
            text.set_color(ink.text)
            text.set_fontsize(9)
        for legend in (*figure.legends, ax.get_legend()):
            for text in legend.get_texts() if legend is not None else ():
                text.set_color(ink.text)
        return figure


def cut(name: str, longest: int = _LONGEST_NAME) -> str:
    """Long names lose their middle: what tells them apart is more often at an end."""
    half = longest // 2
    return name if len(name) <= longest else f"{name[:half]}…{name[-half + 1 :]}"


def thinned(
    x: npt.NDArray[np.float64], y: npt.NDArray[np.float64], most: int = _MOST_POINTS
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """At most about `most` of the points, the first and the last among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, min(len(x), most)).round().astype(np.int64))
    return x[kept], y[kept]

"""Maps of low-resolution cells and of pixels as matplotlib draws them, with the pixel and its window marked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from torch import Tensor

from naf_hub.errors import MissingExtraError

from .query_window import QueryWindow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNED, AMOUNT = "RdBu_r", "viridis"
# Not clipped: whole at a corner of the photo, too.
MARK = {
    "marker": "+",
    "color": "black",
    "markersize": 13,
    "markeredgewidth": 3.5,
    "linestyle": "none",
    "clip_on": False,
}
MARK_INSIDE = MARK | {"color": "white", "markersize": 11, "markeredgewidth": 1.5}
# Of the inches asked for, and the dots on each that keep the pixels at 100 an inch asked for: letters are larger, as
# pages show these figures at half their pixels.
SHRINK, DOTS = 0.75, 400 / 3
CELLS = ("column of cells", "row of cells")
PIXELS = ("column of pixels", "row of pixels")


def require_matplotlib() -> None:
    """Require that figures can be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "figures of attention need matplotlib: pip install 'naf-hub[eval]'"
        ) from error


def new_figure(title: str, width: float, height: float) -> Figure:
    """An empty figure of so many hundreds of pixels under a title.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    require_matplotlib()
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    # Inches between panels: labels of colour bars stay clear of the next one's.
    apart = ConstrainedLayoutEngine(w_pad=0.1)
    figure = Figure((SHRINK * width, SHRINK * height), dpi=DOTS, layout=apart)
    figure.suptitle(title, fontsize=12)
    return figure


class CellMaps:
    """Maps of slots as maps of the cells that the window spans, and where the pixel is among these."""

    def __init__(self, window: QueryWindow) -> None:
        self.window = window
        (top, bottom), (left, right) = (
            (int(slots.min()), int(slots.max())) for slots in (window.rows, window.columns)
        )
        self.inside = (slice(top, bottom + 1), slice(left, right + 1))
        self.extent = (left - 0.5, right + 0.5, bottom + 0.5, top - 0.5)
        row, column = (
            (n + 0.5) * cells / size - 0.5
            for n, cells, size in zip(window.at, window.grid, window.size, strict=True)
        )
        self.query = (column, row)

    def of_slots(self, values: Tensor) -> Tensor:
        """(k_y, k_x), the same in every slot of a cell, on cells; NaN in a cell that fills no slot."""
        found = values.new_full(self.window.grid, math.nan)
        found[self.window.rows[:, None], self.window.columns] = values
        return found[self.inside]

    def of_grid(self, values: Tensor) -> Tensor:
        """The part of (h, w)."""
        return values[self.inside]

    def draw(self, axes: Axes, values: Tensor, title: str, unit: str, **style: Any) -> None:
        """A map of these cells, with the pixel marked."""
        draw_heat(axes, values, title, unit, CELLS, extent=self.extent, **style)
        draw_mark(axes, self.query)


def draw_heat(
    axes: Axes, values: Tensor, title: str, unit: str, places: tuple[str, str], **style: Any
) -> None:
    """A map with its colour bar, whose unit is ``unit``; ``places`` name the axes, ``style`` goes to ``imshow``."""
    shown = axes.imshow(values.float().cpu().numpy(), **{"cmap": SIGNED, "interpolation": "nearest", **style})
    axes.set_title(title, fontsize=11, pad=9)
    axes.set_xlabel(places[0])
    axes.set_ylabel(places[1])
    _count_in_whole(axes)
    # Beside the map and as high as it is, whatever room the map leaves.
    bar = axes.figure.colorbar(shown, cax=axes.inset_axes((1.04, 0, 0.06, 1)))
    bar.set_label(unit)


def _count_in_whole(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(4, integer=True))


def draw_mark(axes: Axes, query: tuple[float, float]) -> None:
    """A cross at the pixel, ``query`` = (column, row)."""
    axes.plot(*query, **MARK)
    axes.plot(*query, **MARK_INSIDE)


def draw_frame(axes: Axes, window: QueryWindow, scale: tuple[float, float] = (1.0, 1.0)) -> None:
    """The window as a dashed rectangle, in pixels divided by ``scale`` (rows, columns)."""
    from matplotlib.patches import Rectangle

    rows, columns = window.pixels()
    y, x = rows.start / scale[0] - 0.5, columns.start / scale[1] - 0.5
    height, width = (rows.stop - rows.start) / scale[0], (columns.stop - columns.start) / scale[1]
    for colour, style, line in (("black", "-", 3.0), ("white", "--", 1.6)):
        look = {"edgecolor": colour, "linestyle": style, "linewidth": line, "clip_on": False}
        axes.add_patch(Rectangle((x, y), width, height, fill=False, **look))


def draw_photo(axes: Axes, image: Tensor, window: QueryWindow, title: str) -> None:
    """The image (3, H, W) with the pixel and its window; axes in pixels of the output."""
    height, width = window.size
    axes.imshow(image.movedim(0, -1).float().cpu().numpy(), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.set_title(title, fontsize=11, pad=9)
    axes.set_xlabel(PIXELS[0])
    axes.set_ylabel(PIXELS[1])
    draw_frame(axes, window)
    draw_mark(axes, (window.at[1], window.at[0]))

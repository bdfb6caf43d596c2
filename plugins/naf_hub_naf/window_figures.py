"""Figures of what one pixel of NAF attends to, after figures 4 to 7 and appendix A of arXiv 2511.18452.

Each function returns a ``matplotlib.figure.Figure``; nothing is shown or kept elsewhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from naf_hub.errors import MissingExtraError

from .model import NAF
from .query_window import QueryWindow
from .spectrum import Rotation, Spectrum, pair_maps, rotation, spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIGNED, AMOUNT = "RdBu_r", "viridis"
MARK = {"marker": "+", "color": "black", "markersize": 13, "markeredgewidth": 3.5, "linestyle": "none"}
MARK_INSIDE = MARK | {"color": "white", "markersize": 11, "markeredgewidth": 1.5}
MOST = 0.99  # share of the pixels whose products colours still tell apart
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


def _figure(title: str, width: float, height: float) -> Figure:
    require_matplotlib()
    from matplotlib.figure import Figure

    figure = Figure((width, height), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=14)
    return figure


class _Cells:
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
        _heat(axes, values, title, unit, CELLS, extent=self.extent, **style)
        _mark(axes, self.query)


def _heat(axes: Axes, values: Tensor, title: str, unit: str, places: tuple[str, str], **style: Any) -> None:
    shown = axes.imshow(values.float().cpu().numpy(), **{"cmap": SIGNED, "interpolation": "nearest", **style})
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(places[0])
    axes.set_ylabel(places[1])
    figure = axes.figure
    bar = figure.colorbar(shown, ax=axes, shrink=0.85)
    bar.set_label(unit)


def _mark(axes: Axes, query: tuple[float, float]) -> None:
    axes.plot(*query, **MARK)
    axes.plot(*query, **MARK_INSIDE)


def _frame(axes: Axes, window: QueryWindow, scale: tuple[float, float] = (1.0, 1.0)) -> None:
    """The window as a dashed rectangle, in pixels divided by ``scale`` (rows, columns)."""
    from matplotlib.patches import Rectangle

    rows, columns = window.pixels()
    y, x = rows.start / scale[0] - 0.5, columns.start / scale[1] - 0.5
    height, width = (rows.stop - rows.start) / scale[0], (columns.stop - columns.start) / scale[1]
    for colour, style, line in (("black", "-", 3.0), ("white", "--", 1.6)):
        axes.add_patch(
            Rectangle((x, y), width, height, fill=False, edgecolor=colour, linestyle=style, linewidth=line)
        )


def _photo(axes: Axes, image: Tensor, window: QueryWindow, title: str) -> None:
    """The image (3, H, W) with the pixel and its window; axes in pixels of the output."""
    height, width = window.size
    axes.imshow(image.movedim(0, -1).float().cpu().numpy(), extent=(-0.5, width - 0.5, height - 0.5, -0.5))
    axes.set_title(title, fontsize=11)
    axes.set_xlabel(PIXELS[0])
    axes.set_ylabel(PIXELS[1])
    _frame(axes, window)
    _mark(axes, (window.at[1], window.at[0]))


def window_figure(model: NAF, image: Tensor, window: QueryWindow, name: str = "NAF") -> Figure:
    """The pixel in the photo, and logits and weights of its window: mean over heads and each head (figure 7).

    Args:
        image: (3, H, W), RGB in [0, 1].
        name: of the model, for titles.
    """
    heads, cells = len(window.weights), _Cells(window)
    across = max(4, heads)
    figure = _figure(_title(name, window), 3.5 * across, 9.6)
    grid = figure.subplots(3, across)
    for axes in grid.flat:
        axes.set_axis_off()

    def place(row: int, column: int) -> Axes:
        grid[row, column].set_axis_on()
        return grid[row, column]

    weights = window.on_grid()
    _photo(place(0, 0), image, window, "photo, pixel and window")
    close = place(0, 1)
    _photo(close, image, window, "window, brighter: more weight")
    rows, columns = window.pixels()
    mean = cells.of_grid(weights.mean(0)).float().cpu().numpy()
    sides = (columns.start - 0.5, columns.stop - 0.5, rows.stop - 0.5, rows.start - 0.5)
    close.imshow(1 - mean / mean.max(), cmap="Greys", extent=sides, alpha=0.65, interpolation="nearest")
    close.set_xlim(sides[:2])
    close.set_ylim(sides[2:])
    logits = cells.of_slots(window.logits.mean(0))
    cells.draw(place(0, 2), logits, "logits, mean of heads", "logit")
    cells.draw(
        place(0, 3), cells.of_grid(weights.mean(0)), "weights, mean of heads", "weight", cmap=AMOUNT, vmin=0
    )
    for head in range(heads):
        entropy = -(window.weights[head] * window.weights[head].clamp_min(1e-30).log()).sum()
        cells.draw(place(1, head), cells.of_slots(window.logits[head]), f"logits, head {head}", "logit")
        title = f"weights, head {head}: {float(entropy):.2f} nats"
        cells.draw(place(2, head), cells.of_grid(weights[head]), title, "weight", cmap=AMOUNT, vmin=0)
    return figure


def spectrum_figure(model: NAF, image: Tensor, window: QueryWindow, name: str = "NAF") -> Figure:
    """Amplitudes by frequency, and the window as more and more frequencies make it (equations 23 and 24).

    Raises:
        ValueError: the model has no spectrum, see :func:`naf_hub_naf.spectrum.rotary_of`.
    """
    found, cells = spectrum(model, window), _Cells(window)
    figure = _figure(f"Spectrum. {_title(name, window)}", 14, 9.6)
    above, middle, below = figure.subfigures(3, 1, height_ratios=[1.1, 1, 1])
    axes = above.subplots(1, 3)
    for axis, word in enumerate(("vertical waves", "horizontal waves")):
        _amplitudes(axes[axis], found, axis, word)
    _error(axes[2], found, window)
    count = found.wavelengths.shape[1]
    kept = sorted({max(1, count * part // 8) for part in (1, 2, 4, 6, 8)})
    for row, (draw, style) in enumerate(
        ((lambda logits: logits, {}), (_softmax, {"cmap": AMOUNT, "vmin": 0}))
    ):
        for axes, many in zip((middle, below)[row].subplots(1, len(kept)), kept, strict=True):
            word = ("logits", "weights")[row]
            values = cells.of_slots(draw(found.up_to(many)).mean(0))
            title = f"{word}, {many} lowest of {count}" if many < count else f"{word}, all {count}"
            cells.draw(axes, values, title, word[:-1], **style)
    return figure


def _softmax(logits: Tensor) -> Tensor:
    return logits.flatten(1).softmax(-1).view_as(logits)


def _amplitudes(axes: Axes, found: Spectrum, axis: int, word: str) -> None:
    amplitudes = found.amplitudes[:, :, axis].sum(1).float().cpu()
    lengths = found.wavelengths[axis].float().cpu()
    for head, values in enumerate(amplitudes):
        axes.plot(lengths, values, "o-", markersize=3, linewidth=1, label=f"head {head}")
    axes.plot(lengths, amplitudes.mean(0), color="black", linewidth=2.2, label="mean")
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_title(f"amplitude by wavelength, {word}", fontsize=11)
    axes.set_xlabel("wavelength (cells)")
    axes.set_ylabel("|G(p)| |G(q)|, as logit")
    axes.legend(fontsize=8)


def _error(axes: Axes, found: Spectrum, window: QueryWindow) -> None:
    """How far the weights of the lowest frequencies are from those of all: half the sum of differences."""
    count = found.wavelengths.shape[1]
    whole = _softmax(window.logits)
    apart = torch.stack(
        [(_softmax(found.up_to(many)) - whole).abs().sum((1, 2)) / 2 for many in range(count + 1)]
    )
    for head, values in enumerate(apart.T.float().cpu()):
        axes.plot(range(count + 1), values, "o-", markersize=3, linewidth=1, label=f"head {head}")
    axes.set_ylim(bottom=0)
    axes.set_title("weight that lies elsewhere", fontsize=11)
    axes.set_xlabel("lowest frequencies added up")
    axes.set_ylabel("share of the weight")
    axes.legend(fontsize=8)


def distance_figure(model: NAF, image: Tensor, window: QueryWindow, name: str = "NAF") -> Figure:
    """What place alone does: phases over the window (figure 4), wavelets (figure 6), and weights by distance.

    Raises:
        ValueError: the model has no rotary encoding, see :func:`naf_hub_naf.spectrum.rotary_of`.
    """
    turns, cells = rotation(model, window), _Cells(window)
    figure = _figure(f"Place and distance. {_title(name, window)}", 14, 9.6)
    above, middle, below = figure.subfigures(3, 1)
    count = len(turns.cos_x)
    style = {"vmin": -1, "vmax": 1}
    one = count // 2
    for axes, (title, values) in zip(
        above.subplots(1, 4),
        (
            ("mean cosine of all channels", turns.mean_cos()),
            ("mean sine of all channels", turns.mean_sin()),
            (f"cosine, row channel {one}", turns.cos_y[one][:, None].expand_as(window.logits[0])),
            (f"sine, row channel {one}", turns.sin_y[one][:, None].expand_as(window.logits[0])),
        ),
        strict=True,
    ):
        cells.draw(axes, cells.of_slots(values), title, "cos or sin of phase", **style)
    lengths = model.image_encoder.rope.periods * window.grid[1] / 2  # pyright: ignore
    chosen = [round(n * (count - 1) / 3) for n in range(4)]
    for axes, channel in zip(middle.subplots(1, 4), chosen, strict=True):
        values = turns.cos_x[channel].expand_as(window.logits[0])
        title = f"wavelet, {float(lengths[channel]):.0f} cells long"
        cells.draw(axes, cells.of_slots(values), title, "cosine of phase", **style)
    left, right = below.subplots(1, 2)
    _decay(left, window)
    _place_alone(right, window, turns)
    return figure


def _decay(axes: Axes, window: QueryWindow) -> None:
    distances = window.distances().flatten().float().cpu()
    for head, weights in enumerate(window.weights.flatten(1).float().cpu()):
        axes.plot(distances, weights, ".", markersize=4, alpha=0.45, color=f"C{head}")
        axes.plot(*_by_ring(distances, weights), color=f"C{head}", linewidth=2, label=f"head {head}, mean")
    axes.axhline(1 / len(distances), color="black", linestyle=":", label="all cells alike")
    axes.set_title("weight by distance", fontsize=11)
    axes.set_xlabel("distance to the cell's centre (cells)")
    axes.set_ylabel("weight")
    axes.legend(fontsize=8)


def _place_alone(axes: Axes, window: QueryWindow, turns: Rotation) -> None:
    distances = window.distances().flatten().float().cpu()
    cosines = turns.mean_cos().flatten().float().cpu()
    axes.plot(distances, cosines, ".", markersize=4, alpha=0.45)
    axes.plot(*_by_ring(distances, cosines), color="C0", linewidth=2, label="mean")
    axes.set_title("mean cosine of all channels by distance", fontsize=11)
    axes.set_xlabel("distance to the cell's centre (cells)")
    axes.set_ylabel("mean cosine")
    axes.legend(fontsize=8)


def _by_ring(distances: Tensor, values: Tensor) -> tuple[list[float], list[float]]:
    """Mean distance and mean value of rings one cell wide."""
    rings = distances.round().long()
    inside = [rings == ring for ring in rings.unique()]
    return [float(distances[i].mean()) for i in inside], [float(values[i].mean()) for i in inside]


def pair_figure(model: NAF, image: Tensor, window: QueryWindow, name: str = "NAF") -> Figure:
    """Dot and cross product of the pair of channels that tells most in this window, with every pixel (figure 5).

    Raises:
        ValueError: the model has no spectrum, see :func:`naf_hub_naf.spectrum.rotary_of`.
    """
    found = spectrum(model, window)
    pair = head, group, axis, frequency = found.strongest_pair()
    maps = pair_maps(model, window, pair)
    length = float(found.wavelengths[axis, frequency])
    word = ("vertical", "horizontal")[axis]
    where = f"head {head}, {word} wave of {length:.1f} cells"
    figure = _figure(f"The pair of channels that varies most: {where}. {_title(name, window)}", 14, 7)
    grid = figure.subplots(2, 3)
    _photo(grid[0, 0], image, window, "photo, pixel and window")
    cells = _Cells(window)
    contribution = cells.of_slots(found.contributions[head, group, axis, frequency])
    cells.draw(grid[1, 0], contribution, "what it adds to the logits", "logit")
    scale = tuple(side / n for side, n in zip(window.size, window.grid, strict=True))
    for row, (title, fine, coarse) in enumerate(
        (("dot product", maps.dot, maps.dot_cells), ("cross product", maps.cross, maps.cross_cells))
    ):
        sizes = fine.abs().flatten().float().sort().values
        most = float(sizes[int(MOST * (len(sizes) - 1))])
        style = {"vmin": -most, "vmax": most}
        _heat(grid[row, 1], fine, f"{title}, every pixel", title, PIXELS, **style)
        _frame(grid[row, 1], window)
        _mark(grid[row, 1], (window.at[1], window.at[0]))
        _heat(grid[row, 2], coarse, f"{title}, mean of cells", title, CELLS, **style)
        _frame(grid[row, 2], window, scale)
        _mark(grid[row, 2], cells.query)
    return figure


def _title(name: str, window: QueryWindow) -> str:
    y, x = window.at
    (h, w), (height, width) = window.grid, window.size
    return f"{name}: column {x}, row {y} of {width}x{height} pixels (width x height), {w}x{h} cells"


FIGURES = {
    "window": window_figure,
    "spectrum": spectrum_figure,
    "distance": distance_figure,
    "pair": pair_figure,
}

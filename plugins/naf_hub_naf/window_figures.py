"""Figures of what one pixel of NAF attends to, after figures 4 to 7 and appendix A of arXiv 2511.18452.

Each function returns a ``matplotlib.figure.Figure``; nothing is shown or kept elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .cell_maps import (
    AMOUNT,
    CELLS,
    PIXELS,
    CellMaps,
    draw_frame,
    draw_heat,
    draw_mark,
    draw_photo,
    new_figure,
)
from .model import NAF
from .query_window import QueryWindow
from .spectrum import Rotation, Spectrum, pair_maps, rotation, spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST = 0.99  # share of the pixels whose products colours still tell apart


def window_figure(model: NAF, image: Tensor, window: QueryWindow, name: str = "NAF") -> Figure:
    """The pixel in the photo, and logits and weights of its window: mean over heads and each head (figure 7).

    Args:
        image: (3, H, W), RGB in [0, 1].
        name: of the model, for titles.
    """
    heads, cells = len(window.weights), CellMaps(window)
    across = max(4, heads)
    figure = new_figure(_title(name, window), 3.5 * across, 9.2)
    grid = figure.subplots(3, across)
    for axes in grid.flat:
        axes.set_axis_off()

    def place(row: int, column: int) -> Axes:
        grid[row, column].set_axis_on()
        return grid[row, column]

    weights = window.on_grid()
    draw_photo(place(0, 0), image, window, "photo, pixel and window")
    close = place(0, 1)
    draw_photo(close, image, window, "window, brighter: more weight")
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
    found, cells = spectrum(model, window), CellMaps(window)
    figure = new_figure(f"Spectrum. {_title(name, window)}", 14, 9.6)
    above, middle, below = figure.subfigures(3, 1, squeeze=False, height_ratios=[1.1, 1, 1])[:, 0]
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
            title = f"{many} lowest of {count}" if many < count else f"all {count}"
            cells.draw(axes, values, title, f"mean {word[:-1]}", **style)
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
    axes.set_xticks(lengths[::3].tolist(), [f"{length:.0f}" for length in lengths[::3].tolist()])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_title(f"amplitude, {word}", fontsize=11)
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
    axes.set_title(f"lowest frequencies against all {count}", fontsize=11)
    axes.set_xlabel("lowest frequencies added up")
    axes.set_ylabel("share that lies elsewhere")
    axes.legend(fontsize=8)


def distance_figure(model: NAF, image: Tensor, window: QueryWindow, name: str = "NAF") -> Figure:
    """What place alone does: phases over the window (figure 4), wavelets (figure 6), and weights by distance.

    Raises:
        ValueError: the model has no rotary encoding, see :func:`naf_hub_naf.spectrum.rotary_of`.
    """
    turns, cells = rotation(model, window), CellMaps(window)
    figure = new_figure(f"Place and distance. {_title(name, window)}", 14, 9.6)
    above, middle, below = figure.subfigures(3, 1, squeeze=False)[:, 0]
    count = len(turns.cos_x)
    style = {"vmin": -1, "vmax": 1}
    shortest = 0
    for axes, (title, values) in zip(
        above.subplots(1, 4),
        (
            ("mean cosine of all channels", turns.mean_cos()),
            ("mean sine of all channels", turns.mean_sin()),
            ("cosine, shortest vertical wave", turns.cos_y[shortest][:, None].expand_as(window.logits[0])),
            ("sine, shortest vertical wave", turns.sin_y[shortest][:, None].expand_as(window.logits[0])),
        ),
        strict=True,
    ):
        cells.draw(axes, cells.of_slots(values), title, "cos or sin of phase", **style)
    lengths = model.image_encoder.rope.periods * window.grid[1] / 2  # pyright: ignore
    chosen = [0, count // 8, count // 4, count // 2]  # the rest hardly changes over a window
    for axes, channel in zip(middle.subplots(1, 4), chosen, strict=True):
        values = turns.cos_x[channel].expand_as(window.logits[0])
        title = f"horizontal wave of {float(lengths[channel]):.0f} cells"
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
    figure = new_figure(f"{_title(name, window)}\nThe pair of channels that varies most: {where}", 14, 7)
    grid = figure.subplots(2, 3)
    draw_photo(grid[0, 0], image, window, "photo, pixel and window")
    cells = CellMaps(window)
    contribution = cells.of_slots(found.contributions[head, group, axis, frequency])
    cells.draw(grid[1, 0], contribution, "what it adds to the logits", "logit")
    scale = window.size[0] / window.grid[0], window.size[1] / window.grid[1]
    for row, (title, fine, coarse) in enumerate(
        (("dot product", maps.dot, maps.dot_cells), ("cross product", maps.cross, maps.cross_cells))
    ):
        sizes = fine.abs().flatten().float().sort().values
        most = float(sizes[int(MOST * (len(sizes) - 1))])
        style = {"vmin": -most, "vmax": most}
        draw_heat(grid[row, 1], fine, f"{title}, every pixel", title, PIXELS, **style)
        draw_frame(grid[row, 1], window)
        draw_mark(grid[row, 1], (window.at[1], window.at[0]))
        draw_heat(grid[row, 2], coarse, f"{title}, mean of cells", title, CELLS, **style)
        draw_frame(grid[row, 2], window, scale)
        draw_mark(grid[row, 2], cells.query)
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

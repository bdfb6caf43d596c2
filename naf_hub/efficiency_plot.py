"""Time and memory of a swept benchmark as a picture, one panel a figure and factor."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import atomic_file
from .errors import MissingExtraError
from .reports import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ENDINGS = (".png", ".svg", ".pdf")
PANELS = (("seconds", "forward, ms", 1000.0), ("backward_seconds", "training step, ms", 1000.0),
          ("peak_mib", "peak memory of forward, MiB", 1.0))  # fmt: skip
# Axes that span less than this have room for numbers between the powers of ten.
FEW_POWERS = 300
LETTER = 0.021  # of the width of a panel


def plot_sweeps(report: Report, path: str | os.PathLike[str]) -> Path:
    """Write :func:`draw_sweeps` to a picture.

    Args:
        report: of ``naf-hub bench --sweep``.
        path: picture to write; its ending, one of :data:`ENDINGS`, decides the format.

    Raises:
        ValueError, MissingExtraError: as for :func:`draw_sweeps`.
    """
    figure, target = draw_sweeps(report), Path(path)
    with atomic_file(target) as temporary:
        figure.savefig(temporary, format=target.suffix[1:].lower(), dpi=130)
    return target


def draw_sweeps(report: Report) -> Figure:
    """Each swept factor, on a logarithmic axis, against time and memory: on one, too, where they span a decade,
    else from zero. Axes have plain numbers, and a contender has one colour in all panels.

    Args:
        report: of ``naf-hub bench --sweep``.

    Raises:
        ValueError: nothing was swept.
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("--plot needs matplotlib: pip install 'naf-hub[eval]'") from error
    swept = [row for row in report.rows if row.extras.get("swept")]
    factors = list(dict.fromkeys(row.extras["swept"][0] for row in swept))
    if not factors:
        raise ValueError("nothing was swept, so that there is no line to draw: give --sweep")
    labels = dict.fromkeys(row.extras["contender"] for row in swept)
    colours = {label: f"C{number % 10}" for number, label in enumerate(labels)}
    panels = [panel for panel in PANELS if any(row.values.get(panel[0]) is not None for row in swept)]
    figure = Figure(figsize=(4.6 * len(panels), 3.8 * len(factors)), layout="constrained")
    axes = figure.subplots(len(factors), len(panels), squeeze=False)
    for line, factor in zip(axes, factors, strict=True):
        for axis, (name, title, scale) in zip(line, panels, strict=True):
            axis.set(xlabel=factor, ylabel=title, xscale="log")
            _draw(axis, [row for row in swept if row.extras["swept"][0] == factor], name, scale, colours)
    axes[0][0].legend(fontsize=8, frameon=False)
    return figure


def _draw(axis: Any, rows: list[Any], name: str, scale: float, colours: Mapping[str, str]) -> None:
    seen: list[float] = []
    for label, colour in colours.items():
        points = [
            (row.extras["swept"][1], value * scale)
            for row in rows
            if row.extras["contender"] == label and (value := row.values.get(name)) is not None
        ]
        # Without points, too: the legend of the first panel is that of all.
        axis.plot([x for x, _ in points], [y for _, y in points], marker="o", color=colour, label=label)
        seen += [y for _, y in points]
    if seen and max(seen) >= 10 * min(seen) > 0:  # 0 has no place on a logarithmic axis
        _label_logarithmic(axis, max(seen) / min(seen))
    else:
        axis.set_ylim(0, 1.08 * max(seen, default=0.0) or 1.0)
    ticks = sorted({row.extras["swept"][1] for row in rows})
    axis.set_xticks(ticks, _apart(ticks))
    axis.set_xticks([], minor=True)
    axis.grid(alpha=0.3, which="both")


def _label_logarithmic(axis: Any, span: float) -> None:
    """A logarithmic y axis with plain numbers: powers of ten, and 2 and 5 of each where there are few."""
    import numpy as np
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if span < FEW_POWERS else (1,)))
    axis.yaxis.set_major_formatter(
        FuncFormatter(lambda value, _: np.format_float_positional(value, 6, trim="-"))
    )
    axis.yaxis.set_minor_formatter(NullFormatter())


def _apart(ticks: Sequence[int]) -> list[str]:
    """The swept values as labels of a logarithmic axis; one that would run into the label before it is left empty."""
    span = math.log(ticks[-1] / ticks[0]) or 1.0
    labels: list[str] = []
    free = -math.inf
    for tick in ticks:
        text = str(tick)
        place, half = math.log(tick / ticks[0]) / span, LETTER * (len(text) + 1) / 2
        labels.append(text if place - half >= free else "")
        free = place + half if labels[-1] else free
    return labels

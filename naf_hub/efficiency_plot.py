"""Time and memory of a swept benchmark as a picture, one panel a figure and factor."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from .atomic import atomic_file
from .errors import MissingExtraError
from .reports import Report

ENDINGS = (".png", ".svg", ".pdf")
PANELS = (("seconds", "forward, ms", 1000.0), ("backward_seconds", "training step, ms", 1000.0),
          ("peak_mib", "peak memory of forward, MiB", 1.0))  # fmt: skip


def plot_sweeps(report: Report, path: str | os.PathLike[str]) -> Path:
    """Draw each swept factor, on a logarithmic axis, against time and memory: on one, too, where they span a decade,
    else from zero.

    Args:
        report: of ``naf-hub bench --sweep``.
        path: picture to write; its ending, one of :data:`ENDINGS`, decides the format.

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
    panels = [panel for panel in PANELS if any(row.values.get(panel[0]) is not None for row in swept)]
    figure = Figure(figsize=(4.6 * len(panels), 3.8 * len(factors)), layout="constrained")
    axes = figure.subplots(len(factors), len(panels), squeeze=False)
    for line, factor in zip(axes, factors, strict=True):
        for axis, (name, title, scale) in zip(line, panels, strict=True):
            axis.set(xlabel=factor, ylabel=title, xscale="log")
            _draw(axis, [row for row in swept if row.extras["swept"][0] == factor], name, scale)
    axes[0][0].legend(fontsize=8, frameon=False)
    target = Path(path)
    with atomic_file(target) as temporary:
        figure.savefig(temporary, format=target.suffix[1:].lower(), dpi=130)
    return target


def _draw(axis: Any, rows: list[Any], name: str, scale: float) -> None:
    seen: list[float] = []
    for label in dict.fromkeys(row.extras["contender"] for row in rows):
        points = [
            (row.extras["swept"][1], value * scale)
            for row in rows
            if row.extras["contender"] == label
            and (value := row.values.get(name))  # 0 has no place on the axis
        ]
        if points:
            axis.plot(*zip(*points, strict=True), marker="o", label=label)
            seen += [height for _, height in points]
    if seen and max(seen) >= 10 * min(seen):
        axis.set_yscale("log")  # several powers of ten to read from
    else:
        axis.set_ylim(0, 1.08 * max(seen, default=1.0))
    ticks = sorted({row.extras["swept"][1] for row in rows})
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_xticks([], minor=True)
    axis.grid(alpha=0.3, which="both")

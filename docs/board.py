"""The board of all upsamplers on all tasks: tables whose columns sort at a click, from a kept leaderboard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from naf_hub.escapes import plain
from naf_hub.leaderboard.ranking import RANK, mean_ranks
from naf_hub.reports import Metric, Report, Row

KEPT = Path(__file__).parent / "reports" / "board.json"
INTRODUCTION = """
# Board

Every upsampler that runs here without a network, ranked over {columns} columns: {measures}, on small public samples,
with up to four frozen backbones. A heading sorts its table at a click. What the figures mean, their spreads and what
they cannot show is on [Results](results.md); your own upsampler gets its row from [the same
command](leaderboard.md#the-results-of-this-project).

```sh
OMP_NUM_THREADS=1 naf-hub leaderboard results -o results --data-root DATA --device cpu
```

One thread of an Intel Xeon with AVX-512, float32. Ranks are means over the columns that a row has, among the rows
without an asterisk; an asterisk marks **controls and yardsticks**, which see no picture, learned nothing, or are no
upsampler: what they reach needs no skill. The best ranked figure of a column is bold. EfficientNet-Lite0 and the
ViT-S/14 are teachers of `naf` and `naf_small`, the ViT-S/14 is that of `naf_local` and stands behind pico;
MobileNetV1 is zero-shot for all.
"""
# What a column of each measure is, with where it is told more.
MEASURES = {
    "boundaries": "Edges of features on boundaries that people drew: average precision in percent "
    "([Compare edges](boundaries.md)).",
    "reconstruction x2": "Error at x2 over that of bilinear interpolation; lower is better "
    "([Results](results.md#reconstruction)).",
    "video": "Masks carried through videos: J and F in percent ([Follow objects through videos](video.md)).",
    "depth": "Depths right to 25 %, in percent, of a linear head ([Probe depth](depth.md)).",
    "CamVid": "Mean intersection over union in percent of a linear head ([Results](results.md#camvid-linear-probe)).",
}


class Column(NamedTuple):
    """One measure on one backbone."""

    metric: Metric
    measure: str
    backbone: str


def columns_of(report: Report) -> list[Column]:
    found = []
    for metric in report.metrics:
        measure, _, backbone = metric.name.partition(", ")
        if measure in MEASURES:
            found.append(Column(metric, measure, backbone))
    return found


def competes(row: Row) -> bool:
    return row.values.get(RANK.name) is not None


def ranks(rows: Iterable[Row], columns: Iterable[Column]) -> dict[str, float]:
    figures = {row.label: row.values for row in rows if competes(row)}
    return mean_ranks(figures, {column.metric.name: column.metric for column in columns})


def table(
    rows: Iterable[Row], headings: Iterable[str], figures: Mapping[str, list[str]], order: Mapping[str, float]
) -> str:
    placed = sorted(rows, key=lambda row: order.get(row.label, float("inf")))
    lines = [["upsampler", *headings]]
    lines.append(["---", *["---:"] * (len(lines[0]) - 1)])
    for row in placed:
        cells = figures[row.label]
        if any(cell != "-" for cell in cells):
            lines.append([plain(row.label) + ("" if competes(row) else " \\*"), *cells])
    text = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f'<div class="sortable" markdown>\n\n{text}\n\n</div>\n'


def shown(rows: list[Row], column: Column) -> dict[str, str]:
    """What each row has in a column, the best that is ranked in bold."""
    name = column.metric.name
    values = [value for row in rows if competes(row) and (value := row.values.get(name)) is not None]
    best = (max if column.metric.higher_is_better else min)(values, default=None)
    cells = {}
    for row in rows:
        value = row.values.get(name)
        cell = column.metric.text(value)
        cells[row.label] = f"**{cell}**" if value == best and competes(row) else cell
    return cells


def page(note: str) -> str:
    report = Report.load(KEPT)
    rows, columns = list(report.rows), columns_of(report)
    measures = list(dict.fromkeys(column.measure for column in columns))
    overall = ranks(rows, columns)
    by_measure = {name: ranks(rows, [c for c in columns if c.measure == name]) for name in measures}
    places: dict[str, list[str]] = {}
    for row in rows:
        own = [overall, *by_measure.values()]
        places[row.label] = [f"{found[row.label]:.1f}" if row.label in found else "-" for found in own]
    parts = [
        note + INTRODUCTION.format(columns=len(columns), measures=", ".join(measures)),
        "## Mean ranks\n",
        table(filter(competes, rows), ["all", *measures], places, overall),
    ]
    for name in measures:
        own = [column for column in columns if column.measure == name]
        cells = [shown(rows, column) for column in own]
        figures = {row.label: [column[row.label] for column in cells] for row in rows}
        heading = f"## {name[0].upper()}{name[1:]}\n\n{MEASURES[name]}\n"
        parts += [heading, table(rows, [column.backbone for column in own], figures, by_measure[name])]
    return "\n".join(parts)

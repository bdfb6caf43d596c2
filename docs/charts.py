"""Bars and points as SVG, drawn from kept reports: text, so that the same figures give the same file everywhere.

Another chart is a report in ``reports/`` (``--save`` of ``naf-hub eval`` and ``naf-hub bench``) and a line in CHARTS.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

REPORTS = Path(__file__).parent / "reports"
INK, FAINT, OURS, OTHERS, SECOND = "#333333", "#bbbbbb", "#3f51b5", "#9aa0a6", "#c5cae9"
# Of controls, and of what is drawn inside their bars.
PALE_OURS, PALE_OTHERS, PALE_SECOND = "#aab4e0", "#d5d8db", "#eef0fa"
THIRD = "#c9a227"  # of curves, beside the two
CONTROLS = (", a control", "guided by", "random weights", "the picture's own edges")
ROW, WIDTH, LEFT = 26, 720, 190
FIGURES = 90  # room for the figures on the right of the bars


Box = tuple[float, float, float, float]  # left, top, right, bottom


class Bar(NamedTuple):
    """One row: a value, its spread over seeds, and a second value drawn inside."""

    label: str
    value: float
    spread: float = 0.0
    second: float | None = None


class Point(NamedTuple):
    """One method."""

    label: str
    x: float
    y: float


class Curve(NamedTuple):
    """Measured values of one method over those of a factor, and what a model expects."""

    label: str
    x: list[float]
    measured: list[float]
    expected: list[float]


def read(name: str) -> dict[str, Any]:
    """A kept report."""
    return json.loads((REPORTS / f"{name}.json").read_text("utf-8"))


def text(x: float, y: float, what: str, anchor: str = "start", size: int = 13, bold: bool = False) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight} fill="{INK}" '
        f'stroke="#ffffff" stroke-width="3" stroke-linejoin="round" paint-order="stroke">'
        f"{escape(what)}</text>"
    )


def sheet(height: float, parts: Sequence[str], title: str) -> str:
    """An SVG of a white sheet, readable in light and dark."""
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" role="img" '
        f'font-family="sans-serif">\n<title>{escape(title)}</title>\n'
        f'<rect width="{WIDTH}" height="{height:.0f}" fill="#ffffff"/>\n{body}\n</svg>\n'
    )


def is_control(label: str) -> bool:
    """Whether a row shows what an upsampler's own is to be compared with."""
    return any(mark in label for mark in CONTROLS)


def colour_of(label: str) -> str:
    """Names that begin with ``naf`` stand out, and controls are paler."""
    ours = label.startswith("naf")
    if is_control(label):
        return PALE_OURS if ours else PALE_OTHERS
    return OURS if ours else OTHERS


def short(label: str) -> str:
    """A row's name in a table, as a chart has room for."""
    label = label.replace(", default weights of naf", ", naf's weights")
    for what in (", default weights", ", a control", "the authors' weights of ", "an even ", "--option "):
        label = label.replace(what, "")
    return label.replace("the authors' weights for CLIP", "CLIP's weights")


def room_for(rows: Sequence[Bar]) -> float:
    """Of the names on the left."""
    return max(LEFT, 16 + 7 * max(len(short(row.label)) for row in rows))


def whisker(x: float, y: float, spread: float) -> str:
    """A spread of so many pixels to both sides of the end of a bar."""
    low, high = x - spread, x + spread
    return (
        f'<path d="M{low:.1f} {y + 9}H{high:.1f}M{low:.1f} {y + 5}V{y + 13}M{high:.1f} {y + 5}V{y + 13}" '
        f'stroke="{INK}" stroke-width="1.5"/>'
    )


def heading(title: str, notes: Sequence[str]) -> tuple[list[str], int]:
    """A title, and below it the notes there are, as one line; and where the chart begins."""
    parts = [text(8, 22, title, size=15, bold=True)]
    if not any(notes):
        return parts, 44
    # A line of its own: beside the title it would run into it.
    return [*parts, text(8, 44, "; ".join(filter(None, notes)), size=12)], 62


def bars(title: str, unit: str, rows: Sequence[Bar], second: str = "") -> str:
    """Horizontal bars from zero, with whiskers for spreads, coloured as :func:`colour_of` says.

    Args:
        title: above the bars.
        unit: of the axis.
        rows: from the top down.
        second: what the inner bars are, where there are any.
    """
    pale = any(is_control(row.label) for row in rows)
    parts, top = heading(
        title,
        (f"thin bar, and in brackets: {second}" if second else "", "pale: controls" if pale else ""),
    )
    left, right = room_for(rows), WIDTH - FIGURES
    largest = max(row.value + row.spread for row in rows)
    step = nice_step(largest)
    scale = (right - left) / (math.ceil(largest / step) * step)
    bottom = top + ROW * len(rows)
    for tick in range(math.ceil(largest / step) + 1):
        x = left + tick * step * scale
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{FAINT}"/>')
        parts.append(text(x, bottom + 16, f"{tick * step:g}", "middle", 12))
    parts.append(text((left + right) / 2, bottom + 34, unit, "middle", 12))
    for number, row in enumerate(rows):
        y, ours = top + ROW * number + 4, row.label.startswith("naf")
        parts.append(text(left - 8, y + 14, short(row.label), "end", bold=ours and not is_control(row.label)))
        parts.append(bar(left, y, row.value * scale, ROW - 8, colour_of(row.label)))
        if row.second is not None:
            inner = PALE_SECOND if is_control(row.label) else SECOND
            parts.append(bar(left, y + 11, row.second * scale, 7, inner))
        if row.spread:
            parts.append(whisker(left + row.value * scale, y, row.spread * scale))
        shown = f"{row.value:.1f}" + (f" ({row.second:.1f})" if row.second is not None else "")
        parts.append(text(WIDTH - 8, y + 14, shown, "end", 12))
    return sheet(bottom + 44, parts, title)


def bar(x: float, y: float, length: float, thickness: float, colour: str) -> str:
    return f'<rect x="{x:g}" y="{y}" width="{length:.1f}" height="{thickness}" fill="{colour}"/>'


def panels(title: str, unit: str, names: Sequence[str], found: Sequence[Sequence[Bar | None]]) -> str:
    """Horizontal bars beside each other on one scale, a panel each; the first of each panel's rows name all.

    Args:
        title: above the panels.
        unit: of the axes.
        names: of the panels.
        found: rows from the top down, of each a bar for each panel or ``None``.
    """
    known = [next(filter(None, row)) for row in found]
    every = [bar for row in found for bar in row if bar]
    parts, top = heading(title, (unit, "pale: controls" if any(is_control(r.label) for r in known) else ""))
    left, top = room_for(known), top + 18
    across = (WIDTH - 4 - left) / len(names)
    scale = (across - 42) / max(bar.value + bar.spread for bar in every)  # the figure has 42 pixels
    for number, row in enumerate(known):
        ours = row.label.startswith("naf") and not is_control(row.label)
        parts.append(text(left - 8, top + ROW * number + 18, short(row.label), "end", bold=ours))
    for place, name in enumerate(names):
        x = left + place * across
        parts.append(text(x, top - 6, name, size=12, bold=True))
        parts.append(
            f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{top + ROW * len(found)}" stroke="{FAINT}"/>'
        )
        for number, row in enumerate(found):
            if drawn := row[place]:
                parts += panel_bar(drawn, x, top + ROW * number + 4, scale)
    return sheet(top + ROW * len(found) + 12, parts, title)


def panel_bar(drawn: Bar, x: float, y: float, scale: float) -> list[str]:
    """A bar with its figure behind it."""
    end = x + drawn.value * scale
    parts = [bar(x, y, drawn.value * scale, ROW - 8, colour_of(drawn.label))]
    if drawn.spread:
        parts.append(whisker(end, y, drawn.spread * scale))
    return [*parts, text(end + drawn.spread * scale + 4, y + 14, f"{drawn.value:.1f}", size=12)]


def nice_step(largest: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that cuts the axis into four to ten."""
    power = 10.0 ** math.floor(math.log10(largest))
    return next(factor * power for factor in (0.1, 0.2, 0.5, 1.0) if largest / (factor * power) <= 10)


def points(title: str, x_title: str, y_title: str, found: Sequence[Point]) -> str:
    """Points with their names, both axes logarithmic."""
    height, top, bottom, right = 420, 40, 360, WIDTH - 110
    left = 80
    parts = [text(8, 22, title, size=15, bold=True)]
    (x_low, x_high), (y_low, y_high) = (
        (math.floor(min(map(math.log10, values))), math.ceil(max(map(math.log10, values))))
        for values in ([p.x for p in found], [p.y for p in found])
    )

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log10(x) - x_low) / (x_high - x_low)
        up = (math.log10(y) - y_low) / (y_high - y_low)
        return left + across * (right - left), bottom - up * (bottom - top)

    for power in range(x_low, x_high + 1):
        x, _ = place(10.0**power, 10.0**y_low)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{FAINT}"/>')
        parts.append(text(x, bottom + 16, f"{10**power:,}", "middle", 12))
    for power in range(y_low, y_high + 1):
        _, y = place(10.0**x_low, 10.0**power)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{FAINT}"/>')
        parts.append(text(left - 6, y + 4, f"{10**power:,}", "end", 12))
    parts.append(text((left + right) / 2, bottom + 36, x_title, "middle", 12))
    parts.append(
        f'<text transform="translate(18 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle" font-size="12" '
        f'fill="{INK}">{escape(y_title)}</text>'
    )
    places = [place(x, y) for _, x, y in found]
    taken = [(x - 7, y - 7, x + 7, y + 7) for x, y in places]
    for (label, _, _), at in zip(found, places, strict=True):
        ours = label.startswith("naf")
        parts.append(f'<circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="6" fill="{OURS if ours else OTHERS}"/>')
        x, y, anchor, box = free_place(label, at, taken)
        taken.append(box)
        parts.append(text(x, y, label, anchor, bold=ours))
    return sheet(height, parts, title)


def curves(title: str, x_title: str, y_title: str, found: Sequence[Curve]) -> str:
    """Measured values as dots on dashed lines of expected ones, both axes logarithmic; at each x a tick."""
    height, top, bottom, left, right = 420, 40, 360, 80, WIDTH - 130
    parts = [text(8, 22, f"{title}; dashed: the model", size=15, bold=True)]
    ticks = sorted({x for curve in found for x in curve.x})
    heights = [math.log10(y) for curve in found for y in (*curve.measured, *curve.expected)]
    low, high = math.floor(min(heights)), math.ceil(max(heights))

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / ticks[0]) / math.log(ticks[-1] / ticks[0])
        return left + across * (right - left), bottom - (math.log10(y) - low) / (high - low) * (bottom - top)

    for tick in ticks:
        x, _ = place(tick, 1)
        parts.append(f'<line x1="{x:.1f}" y1="{top}" x2="{x:.1f}" y2="{bottom}" stroke="{FAINT}"/>')
        parts.append(text(x, bottom + 16, f"{tick:g}", "middle", 12))
    for power in range(low, high + 1):
        _, y = place(ticks[0], 10.0**power)
        parts.append(f'<line x1="{left}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}" stroke="{FAINT}"/>')
        parts.append(text(left - 6, y + 4, f"{10.0**power:,g}", "end", 12))
    parts.append(text((left + right) / 2, bottom + 36, x_title, "middle", 12))
    parts.append(
        f'<text transform="translate(18 {(top + bottom) / 2}) rotate(-90)" text-anchor="middle" font-size="12" '
        f'fill="{INK}">{escape(y_title)}</text>'
    )
    for curve in found:
        parts += drawn_curve(curve, place, colour_of(curve.label), radius=5)
        x, y = place(curve.x[-1], curve.measured[-1])
        parts.append(text(x + 9, y + 4, curve.label, bold=curve.label.startswith("naf")))
    return sheet(height, parts, title)


def drawn_curve(
    curve: Curve, place: Callable[[float, float], tuple[float, float]], colour: str, radius: float
) -> list[str]:
    """Dots of what was measured on a dashed line of what is expected."""
    line = "L".join(
        "{:.1f} {:.1f}".format(*place(x, y)) for x, y in zip(curve.x, curve.expected, strict=True)
    )
    places = [place(x, y) for x, y in zip(curve.x, curve.measured, strict=True)]
    return [
        f'<path d="M{line}" fill="none" stroke="{colour}" stroke-dasharray="5 4"/>',
        *(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}"/>' for x, y in places),
    ]


def small_curves(title: str, note: str, found: Sequence[tuple[str, Sequence[Curve]]]) -> str:
    """Panels of curves three a row, on one logarithmic scale of y; each has its own of x.

    Args:
        title, note: above the panels.
        found: what x is, and the curves of each panel, each in a colour of its own.
    """
    parts, top = heading(title, [note])
    heights = [y for _, curves in found for c in curves for y in (*c.measured, *c.expected)]
    low, high = math.floor(math.log10(min(heights))), math.ceil(math.log10(max(heights)))
    across, down, left = (WIDTH - 40) / 3, 190, 44
    for number, (x_title, drawn) in enumerate(found):
        x, y = left + number % 3 * across, top + number // 3 * down
        parts += small_panel(x_title, drawn, (x, y, x + across - 24, y + down - 56), (low, high))
        if number % 3 == 0:
            steps = ((down - 56) / (high - low) * (high - power) + y for power in range(low, high + 1))
            powers = range(low, high + 1)
            parts += [
                text(x - 6, at + 4, f"{10.0**p:,g}", "end", 12) for at, p in zip(steps, powers, strict=True)
            ]
    return sheet(top + math.ceil(len(found) / 3) * down, parts, title)


def small_panel(x_title: str, found: Sequence[Curve], box: Box, powers: tuple[int, int]) -> list[str]:
    """One panel inside ``box``, its y from one power of ten to another."""
    left, top, right, bottom = box
    ticks = sorted({x for curve in found for x in curve.x})

    def place(x: float, y: float) -> tuple[float, float]:
        across = math.log(x / ticks[0]) / math.log(ticks[-1] / ticks[0])
        up = (math.log10(y) - powers[0]) / (powers[1] - powers[0])
        return left + 12 + across * (right - left - 24), bottom - up * (bottom - top)

    parts = [text((left + right) / 2, bottom + 34, x_title, "middle", 12)]
    for power in range(powers[0], powers[1] + 1):
        _, y = place(ticks[0], 10.0**power)
        parts.append(f'<line x1="{left:.1f}" y1="{y:.1f}" x2="{right:.1f}" y2="{y:.1f}" stroke="{FAINT}"/>')
    for tick in ticks:
        parts.append(text(place(tick, 1)[0], bottom + 16, f"{tick:g}", "middle", 12))
    for curve, colour in zip(found, (OURS, OTHERS, THIRD), strict=False):
        parts += drawn_curve(curve, place, colour, radius=4)
    return parts


def free_place(label: str, at: tuple[float, float], taken: Sequence[Box]) -> tuple[float, float, str, Box]:
    """Where a point's name meets no other point or name: right of it, left, above or below; and its box."""
    (x, y), length = at, 8 * len(label)
    found = [
        (left, base, anchor, (left - share * length, base - 11, left + (1 - share) * length, base + 3))
        for left, base, anchor, share in (
            (x + 9, y + 4, "start", 0), (x - 9, y + 4, "end", 1), (x, y - 11, "middle", 0.5),
            (x, y + 20, "middle", 0.5), (x + 9, y + 18, "start", 0), (x - 9, y + 18, "end", 1),
        )
    ]  # fmt: skip
    return next((place for place in found if not any(overlap(place[3], box) for box in taken)), found[0])


def overlap(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


class Bars(NamedTuple):
    """A metric of a kept report, with its spread over seeds where there is one.

    Attributes:
        report: name of its file, and of the picture.
        title: above the bars.
        metric: name of the figure.
        second: name of a figure drawn inside, and what it is.
    """

    report: str
    title: str
    metric: str
    second: tuple[str, str] = ("", "")

    def draw(self) -> str:
        report, (inner, meaning) = read(self.report), self.second
        known = {metric["name"]: metric for metric in report["metrics"]}
        found = [
            Bar(
                row["label"],
                values[self.metric],
                values.get(f"{self.metric}_spread") or 0.0,
                values.get(inner),
            )
            for row in report["rows"]
            if (values := row["values"])[self.metric] is not None
        ]
        metric = known[self.metric]
        unit = ", ".join(part for part in (metric["title"] or self.metric, metric["unit"]) if part)
        if any(bar.spread for bar in found):
            unit += f"; whiskers: standard deviation of {len(report['seeds'])} seeds"
        return bars(self.title, unit, found, meaning)


class Panels(NamedTuple):
    """A kept report whose figures are one on several backbones, each with its spread over seeds where there is one.

    Attributes:
        report: name of its file, and of the picture.
        title: above the panels.
    """

    report: str
    title: str

    def draw(self) -> str:
        report = read(self.report)
        names = [metric["name"] for metric in report["metrics"]]
        found = [
            [
                Bar(row["label"], values[name], values.get(f"{name}_spread") or 0.0)
                if name in values
                else None
                for name in names
            ]
            for row in report["rows"]
            for values in (row["values"],)
        ]
        first = report["metrics"][0]
        unit = f"{first['title']}, {first['unit']}"
        if report["seeds"]:
            unit += f"; whiskers: standard deviation of {len(report['seeds'])} seeds"
        return panels(self.title, unit, names, found)


class Speed(NamedTuple):
    """Milliseconds against parameters of a kept report of ``naf-hub bench``, of methods that have any.

    Attributes:
        report: name of its file, and of the picture.
        device: in words.
    """

    report: str
    device: str

    def draw(self) -> str:
        report = read(self.report)
        channels, size = report["protocol"]["features"][0], report["protocol"]["size"]
        found = [
            Point(row["label"], row["values"]["parameters"], 1000 * row["values"]["seconds"])
            for row in report["rows"]
            if row["values"]["parameters"]
        ]
        title = (
            f"{size} x {size} features of {channels} channels, {self.device}, {report['protocol']['dtype']}"
        )
        return points(title, "parameters", "milliseconds", found)


CHARTS = (
    Speed("speed-h200-float32", "one NVIDIA H200"),
    Speed("speed-cpu-float32", "one thread of an AMD EPYC"),
    Bars(
        "camvid-mobilenetv1",
        "CamVid, linear probe on MobileNetV1 (zero-shot)",
        "miou",
        ("miou_2px", "within 2 px of a boundary"),
    ),
    Bars(
        "camvid-vit-s14",
        "CamVid, linear probe on the ViT-S/14",
        "miou",
        ("miou_2px", "within 2 px of a boundary"),
    ),
    Bars(
        "boundaries-mobilenetv1",
        "Boundaries, MobileNetV1 (zero-shot)",
        "average_precision",
        ("best_f", "best F"),
    ),
    Bars("boundaries-vit-s14", "Boundaries, ViT-S/14", "average_precision", ("best_f", "best F")),
    Panels("video", "Masks through four videos, on four backbones"),
    Panels("depth", "Depth of 24 pictures, on four backbones"),
)

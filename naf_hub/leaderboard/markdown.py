"""A board as Markdown: the ranked table, a table of every measure with spreads and times, and what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from ..escapes import plain
from ..reports import Metric, Report, Row
from .board_plan import Measure, Plan
from .cells import Kept, cells
from .filling import SECONDS
from .ranking import Board


def markdown(plan: Plan, kept: Kept, board: Board) -> str:
    """The page, headed by the plan's title.

    Args:
        plan: what is compared.
        kept: the reports.
        board: what they came to.
    """
    parts = [f"# {plan.title}", plan.note.strip(), board.table.markdown() if board.table.rows else ""]
    for measure in plan.measures:
        parts += measure_section(plan, measure, kept)
    if board.paper is not None:
        parts += ["## Beside the paper", board.paper.markdown()]
    parts.append("\n".join(f"* {line}" for line in board.notes()))
    return "\n\n".join(filter(None, parts))


def measure_section(plan: Plan, measure: Measure, kept: Kept) -> list[str]:
    """Heading, table, settings and machine of one measure; nothing where it has no report.

    A cell of the table is the figure, its standard deviation over the seeds where there are several, and in brackets
    the figures beside it. The last column is how long the whole row took.
    """
    columns: dict[str, dict[str, str]] = {}
    seconds: dict[str, float] = {}
    metrics: Mapping[str, Metric] = {}
    machines: dict[str, None] = {}
    for cell in cells(plan):
        report = kept.load(cell) if cell.measure is measure else None
        if report is None:
            continue
        column = columns.setdefault("" if cell.backbone is None else cell.backbone.label, {})
        metrics = {**metrics, **{metric.name: metric for metric in report.metrics}}
        for row in report.rows:
            if row.label == cell.entrant.label or row.label not in column:
                column[row.label] = _figures(measure, row)
        took = report.environment.get(SECONDS)
        if isinstance(took, (int, float)):
            seconds[cell.entrant.label] = seconds.get(cell.entrant.label, 0.0) + took
        machines |= dict.fromkeys(_machine(report))
    if not columns:
        return []
    labels = dict.fromkeys(label for column in columns.values() for label in column)
    table = [
        [measure.task.contends.kind, *columns, "minutes"],
        ["---", *["---:"] * (1 + len(columns))],
        *([plain(label), *(column.get(label, "-") for column in columns.values()), _minutes(seconds.get(label))]
          for label in labels),
    ]  # fmt: skip
    return [
        f"## {plain(measure.name)}",
        _legend(measure, metrics),
        "\n".join(f"| {' | '.join(line)} |" for line in table),
        _settings(measure) + (f" On {'; '.join(machines)}." if machines else ""),
    ]


def _figures(measure: Measure, row: Row) -> str:
    metric = measure.metric
    spread = row.values.get(f"{metric.name}_spread")
    beside = ", ".join(other.text(row.values.get(other.name)) for other in measure.beside)
    return (
        metric.text(row.values.get(metric.name))
        + ("" if spread is None else f" ± {spread:.{metric.digits + 1}f}")
        + (f" ({beside})" if beside else "")
    )


def _minutes(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds / 60:.1f}"


def _legend(measure: Measure, metrics: Mapping[str, Metric]) -> str:
    spread = f"{measure.metric.name}_spread" in metrics
    beside = ", ".join(metric.heading for metric in measure.beside)
    better = "higher" if measure.metric.higher_is_better else "lower"
    return (
        f"{measure.metric.heading}"
        + (" ± standard deviation over the seeds" if spread else "")
        + (f", in brackets {beside}" if beside else "")
        + f"; {better} is better."
    )


def _settings(measure: Measure) -> str:
    given = ", ".join(f"{key} = {json.dumps(value)}" for key, value in measure.protocol.items())
    return f"Task {measure.task.name}, version {measure.task.version}" + (
        f", with {given}." if given else "."
    )


def _machine(report: Report) -> Iterator[str]:
    found: Mapping[str, Any] = report.environment
    named = [str(found[key]) for key in ("gpu", "cpu") if found.get(key)][:1]
    threads = found.get("threads")
    if named:
        yield named[0] + (f", {threads} thread{'s' if threads != 1 else ''}" if threads else "")

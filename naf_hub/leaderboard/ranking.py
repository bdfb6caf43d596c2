"""The table of a leaderboard: a row a contender, ranked, a column a task and backbone."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from statistics import fmean

from ..reports import Metric, Report, ReportError, Row
from .board_plan import Plan
from .cells import Cell, Kept, cells, compare

RANK = Metric("mean_rank", "", False, 2, "mean rank")


@dataclasses.dataclass(frozen=True)
class Board:
    """What came out.

    Attributes:
        table: rows best first by their mean rank over the columns they have, below them, without a rank, controls and
            yardsticks of the tasks; a gain over the baseline where the plan names one and all columns are percent. A
            column without any figure is left out.
        paper: figures of the paper, ours and the difference, or ``None`` where the plan has none.
        left_out: reports that do not compare: file to reason.
        missing: cells without a figure: ``(column, label)`` to reasons.
        labels: rows that the plan asks of each column.
    """

    table: Report
    paper: Report | None
    left_out: Mapping[str, str]
    missing: Mapping[tuple[str, str], tuple[str, ...]]
    labels: Mapping[str, frozenset[str]]

    def notes(self) -> list[str]:
        """Lines that say what is missing, one a reason, and what was left out."""
        lacking: dict[str, dict[str, list[str]]] = {}
        for (column, label), reasons in self.missing.items():
            for reason in reasons:
                lacking.setdefault(reason, {}).setdefault(column, []).append(label)
        return [
            *(f"missing: {self._cells(columns)}: {reason}" for reason, columns in lacking.items()),
            *(f"not comparable: {file}: {reason}" for file, reason in self.left_out.items()),
        ]

    def _cells(self, lacking: Mapping[str, list[str]]) -> str:
        """Cells in words, columns that lack the same rows together, and without the rows where it is all of them."""
        alike: dict[str, list[str]] = {}
        for column, labels in lacking.items():
            rows = "" if self.labels[column] == set(labels) else f", {', '.join(labels)}"
            alike.setdefault(rows, []).append(column)
        return "; ".join(", ".join(columns) + rows for rows, columns in alike.items())


def assemble(plan: Plan, kept: Kept, failed: Mapping[tuple[str, str], str] | None = None) -> Board:
    """The board of all reports that there are.

    Args:
        plan: what is compared.
        kept: the reports.
        failed: reasons of cells that were tried, see :func:`naf_hub.leaderboard.cells.run_missing`.
    """
    values: dict[str, dict[str, float | None]] = {}
    columns: dict[str, Metric] = {}
    missing: dict[tuple[str, str], tuple[str, ...]] = {}
    asked: dict[str, set[str]] = {}
    left_out: dict[str, str] = {}
    models: dict[str, Row] = {}
    every = list(cells(plan))
    current = {cell.file for cell in every}
    for cell in every:
        metric = cell.measure.metric
        title = f"{cell.column}: {metric.title or metric.name}"
        columns[cell.column] = dataclasses.replace(metric, name=cell.column, title=title)
        asked.setdefault(cell.column, set()).add(cell.entrant.label)
        report = kept.load(cell)
        if report is None:
            place = cell.column, cell.entrant.label
            missing[place] = (
                (failed[place],) if failed and place in failed else cell.lacks or ("not evaluated",)
            )
            left_out.update(kept.outdated(cell, current))
            continue
        for row in report.rows:
            mine = row.label == cell.entrant.label
            if mine or cell.column not in values.get(row.label, {}):
                values.setdefault(row.label, {})[cell.column] = row.values.get(metric.name)
                models.setdefault(row.label, row)
    competing = {cell.entrant.label for cell in every if cell.entrant.ranked}
    for column, row, value in _brought(plan, kept, left_out):
        values.setdefault(row.label, {}).setdefault(column, value)
        models.setdefault(row.label, row)
        missing.pop((column, row.label), None)
        competing.add(row.label)
    return Board(
        _ranked(plan, columns, values, models, competing),
        _beside_paper(plan, columns, values, missing),
        left_out,
        missing,
        {column: frozenset(labels) for column, labels in asked.items()},
    )


def _brought(plan: Plan, kept: Kept, left_out: dict[str, str]) -> Iterator[tuple[str, Row, float | None]]:
    """Rows of reports that the plan names: column, row and figure; what does not compare goes to ``left_out``."""
    columns: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells(plan):
        backbone = "" if cell.backbone is None else cell.backbone.contender.label
        if not cell.entrant.protocol:  # settings of one row are not the column's
            columns.setdefault((cell.measure.name, backbone), []).append(cell)
    for measure in plan.measures:
        for path in measure.reports:
            try:
                report = Report.load(path)
            except (OSError, ReportError) as error:
                left_out[os.fspath(path)] = str(error).removeprefix(f"{path}: ")
                continue
            for row in report.rows:
                column = columns.get((measure.name, row.backbone or ""))
                if column is None:
                    left_out[os.fspath(path)] = f"backbone {row.backbone} is not among those of the plan"
                    continue
                like = next(filter(None, map(kept.load, column)), None)
                if reason := compare(column[0], report, like):
                    left_out[os.fspath(path)] = reason
                else:
                    yield column[0].column, row, row.values.get(measure.metric.name)


def mean_ranks(
    values: Mapping[str, Mapping[str, float | None]], columns: Mapping[str, Metric]
) -> dict[str, float]:
    """Mean rank of rows, 1 being the best, over those of the columns that each has; no entry for one that has none.

    Args:
        values: figures by row and column.
        columns: what is ranked.
    """
    ranks: dict[str, list[int]] = {}
    for name, metric in columns.items():
        sign = -1 if metric.higher_is_better else 1
        found = {label: sign * value for label, row in values.items() if (value := row.get(name)) is not None}
        for label, value in found.items():
            ranks.setdefault(label, []).append(1 + sum(other < value for other in found.values()))
    return {label: fmean(places) for label, places in ranks.items()}


def _ranked(
    plan: Plan,
    columns: Mapping[str, Metric],
    values: Mapping[str, Mapping[str, float | None]],
    models: Mapping[str, Row],
    competing: set[str],
) -> Report:
    columns = {
        name: metric for name, metric in columns.items() if any(name in row for row in values.values())
    }
    ranks = mean_ranks({label: row for label, row in values.items() if label in competing}, columns)
    base = values.get(plan.baseline, {})
    gains = bool(base) and all(metric.unit == "%" for metric in columns.values())
    rows: list[Row] = []
    for label, row in values.items():
        figures: dict[str, float | None] = {RANK.name: ranks.get(label), **row}
        pairs = [
            (a, b)
            for name in columns
            if (a := row.get(name)) is not None and (b := base.get(name)) is not None
        ]
        if gains:
            figures["gain"] = fmean(a - b for a, b in pairs) if pairs else None
        rows.append(Row(label, figures, models[label].upsampler, models[label].weights))
    gain = (Metric("gain", "%", True, 2, f"mean gain over {plan.baseline}"),) if gains else ()
    report = Report(
        "leaderboard",
        1,
        {"title": plan.title},
        (RANK, *gain, *columns.values()),
        tuple(rows),
        heading=plan.title,
    )
    return dataclasses.replace(report, rows=report.ranked())


def _beside_paper(
    plan: Plan,
    columns: Mapping[str, Metric],
    values: Mapping[str, Mapping[str, float | None]],
    missing: Mapping[tuple[str, str], tuple[str, ...]],
) -> Report | None:
    if not plan.paper:
        return None
    rows: list[Row] = []
    for column, figures in plan.paper.items():
        for label, published in figures.items():
            ours = values.get(label, {}).get(column)
            reason = ""
            if ours is None:
                reason = "; ".join(missing.get((column, label), ())) or (
                    f"no row {label} in the plan"
                    if column in columns
                    else f"no column {column} in the plan; it has: {'; '.join(columns)}"
                )
            values_of = {
                "paper": published,
                "ours": ours,
                "difference": None if ours is None else ours - published,
            }
            rows.append(Row(f"{column}: {label}", values_of, label, note=reason))
    metrics = (Metric("paper", digits=2), Metric("ours", digits=2), Metric("difference", digits=2))
    return Report(
        "leaderboard_paper", 1, {"title": plan.title}, metrics, tuple(rows), heading="Beside the paper"
    )

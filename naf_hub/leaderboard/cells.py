"""Cells of a leaderboard: what is missing is run, one contender at a time, and each report is kept in a file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Container, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..contenders import Contender
from ..escapes import one_line
from ..reports import Report, ReportError
from ..weights.checksums import sha256_of
from .board_plan import Entrant, Measure, Plan


@dataclasses.dataclass(frozen=True)
class Cell:
    """One contender in one column."""

    measure: Measure
    entrant: Entrant
    backbone: Entrant | None

    @property
    def column(self) -> str:
        """The column's name: the measure's, and the backbone's where there are several."""
        if self.backbone is None or len(self.measure.backbones) == 1:
            return self.measure.name
        return f"{self.measure.name}, {self.backbone.label}"

    @property
    def protocol(self) -> dict[str, Any]:
        """The measure's settings, and over them those of the row."""
        return {**self.measure.protocol, **self.entrant.protocol}

    @property
    def lacks(self) -> str:
        """What must be there first and is not, as far as that is plain without loading anything; else empty."""
        data, contender = self.measure.data, self.entrant.contender
        found = [
            f"no data at {p}" for p in ([data] if isinstance(data, str) else data) if not Path(p).exists()
        ]
        if contender.weights == "default" and not contender.record.weights:
            found.append(f"no weights of {contender.name} are known; name some, {contender.name}=PATH")
        return "; ".join(found)

    @property
    def file(self) -> str:
        """Name of the file its report is kept in: readable words, and a digest of all that decides the figures."""
        facts = {
            "task": self.measure.task.name,
            "version": self.measure.task.version,
            "data": self.measure.data,
            "protocol": self.protocol,
            "options": self.measure.options,
            "controls": self.measure.controls,
            "contender": _facts(self.entrant.contender),
            "backbone": None if self.backbone is None else _facts(self.backbone.contender),
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
        return f"{self.prefix}{digest[:12]}.json"

    @property
    def prefix(self) -> str:
        """How names of files begin that hold this cell, whatever the settings."""
        parts = (
            self.measure.task.name,
            "" if self.backbone is None else self.backbone.label,
            self.entrant.label,
        )
        return "".join(re.sub(r"[^A-Za-z0-9._]+", "_", part)[:60] + "-" for part in parts if part)


def _facts(contender: Contender) -> dict[str, Any]:
    found: dict[str, Any] = {"name": contender.name, "options": dict(contender.options), "weights": None}
    if contender.weights is not None:
        known = contender.record.weights.get(contender.weights)
        found["weights"] = contender.weights if known is None else (known.sha256 or known.source)
        if known is None:
            path = Path(contender.weights)
            file = path / "model.safetensors" if path.is_dir() else path
            if file.is_file():
                found["weights"] = sha256_of(file)
    return found


def cells(plan: Plan) -> Iterator[Cell]:
    """All cells, column by column."""
    for measure in plan.measures:
        for backbone in measure.backbones or (None,):
            for entrant in measure.entrants:
                yield Cell(measure, entrant, backbone)


class Kept:
    """Reports in a folder, one file a cell.

    Args:
        folder: is made when the first report is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def load(self, cell: Cell) -> Report | None:
        """The report of a cell, or ``None`` where there is none; a damaged one counts as none."""
        try:
            return Report.load(self.folder / cell.file)
        except (FileNotFoundError, ReportError):
            return None

    def store(self, cell: Cell, report: Report) -> None:
        """Keep the report of a cell, whole or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        report.save(self.folder / cell.file)

    def outdated(self, cell: Cell, current: Container[str]) -> Iterator[tuple[str, str]]:
        """Files that hold this cell under settings of none of the ``current`` files, and why they do not compare."""
        for path in sorted(self.folder.glob(f"{cell.prefix}*.json")):
            digest = path.name.removeprefix(cell.prefix)
            if path.name in current or not re.fullmatch(r"[0-9a-f]{12}\.json", digest):
                continue
            try:
                report = Report.load(path)
            except ReportError as error:
                yield path.name, str(error)
                continue
            yield path.name, compare(cell, report) or "other weights, options or data"


def compare(cell: Cell, report: Report, like: Report | None = None) -> str:
    """Why a report's figures are not for this cell's column; empty where they are.

    Args:
        cell: any of the column.
        report: what is looked at.
        like: a report of the column; without one, settings that the plan leaves to the task are not compared.
    """
    task = cell.measure.task
    if report.task != task.name:
        return f"task {report.task}, not {task.name}"
    if report.version != task.version:
        return f"protocol version {report.version}, and {task.name} is at {task.version}"
    wanted = json.loads(json.dumps(dict(cell.protocol if like is None else like.protocol)))
    other = [key for key, value in wanted.items() if key in report.protocol and report.protocol[key] != value]
    return "; ".join(f"{key} = {report.protocol[key]!r}, not {wanted[key]!r}" for key in other)


def run_missing(
    plan: Plan, kept: Kept, device: Any = "cpu", tell: Callable[[str], None] = lambda line: None
) -> dict[tuple[str, str], str]:
    """Evaluate what has no report yet; what fails is told and the rest goes on.

    Args:
        plan: what to compare.
        kept: where reports are, and go.
        device: where to compute.
        tell: gets a line before and after each cell.

    Returns:
        Reasons of the cells that failed, by column and label.
    """
    # Columns that show two figures of the same evaluation share it.
    wanted = {cell.file: cell for cell in cells(plan)}
    missing = [cell for cell in wanted.values() if kept.load(cell) is None]
    failed: dict[tuple[str, str], str] = {}
    for number, cell in enumerate(missing, 1):
        tell(f"[{number}/{len(missing)}] {cell.column}: {cell.entrant.label}")
        try:
            report = evaluate(cell, device)
        except Exception as error:  # one that fails, in whatever way, must not take the others along
            reason = one_line(str(error)) or type(error).__name__
            failed[cell.column, cell.entrant.label] = reason
            tell(f"    failed: {reason}")
            continue
        kept.store(cell, report)
        metric = cell.measure.metric
        figures = ", ".join(f"{row.label} {metric.text(row.values.get(metric.name))}" for row in report.rows)
        tell(f"    {metric.heading}: {figures}")
    return failed


def evaluate(cell: Cell, device: Any) -> Report:
    """The report of one cell, its rows called as the plan calls them."""
    measure = cell.measure
    keywords: dict[str, Any] = dict(measure.options)
    if measure.controls:
        keywords["controls"] = measure.controls
    report = measure.task.evaluate(
        [cell.entrant.contender],
        measure.data,
        cell.protocol,
        backbone=None if cell.backbone is None else cell.backbone.contender,
        device=device,
        **keywords,
    )
    return rename(report, {cell.entrant.contender.label: cell.entrant.label})


def rename(report: Report, labels: Mapping[str, str]) -> Report:
    """The report with other labels; the controls of a row (``LABEL (CONTROL)``) follow it."""
    rows = []
    for row in report.rows:
        old = next((old for old in labels if row.label == old or row.label.startswith(f"{old} (")), None)
        label = row.label if old is None else labels[old] + row.label.removeprefix(old)
        rows.append(dataclasses.replace(row, label=label))
    return dataclasses.replace(report, rows=tuple(rows))

"""What is missing in a leaderboard is run, one cell at a time; several processes may fill one folder."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..controls import CONTROLS
from ..errors import as_typed
from ..escapes import one_line
from ..reports import Report
from ..training.checkpoints import CheckpointError
from ..training.exclusive import InUse
from ..training.folder import FolderError
from .board_plan import Plan
from .cells import Cell, Kept, cells

SECONDS = "seconds"
"""Key of a kept report's ``environment``: how long the cell took, loading included."""


def run_missing(
    plan: Plan, kept: Kept, device: Any = "cpu", tell: Callable[[str], None] = lambda line: None
) -> dict[tuple[str, str], str]:
    """Evaluate what has no report yet; what fails is told and the rest goes on.

    A cell that another process is at is left to it, and told.

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
        try:
            with kept.claim(cell):
                if kept.load(cell) is None:  # else another process was faster
                    tell(f"[{number}/{len(missing)}] {cell.column}: {cell.entrant.label}")
                    _fill(cell, kept, device, tell, failed)
        except InUse as error:
            tell(f"[{number}/{len(missing)}] {cell.column}: {cell.entrant.label}: {error} is at it")
    return failed


def _fill(
    cell: Cell,
    kept: Kept,
    device: Any,
    tell: Callable[[str], None],
    failed: dict[tuple[str, str], str],
) -> None:
    begun = kept.unfinished(cell)
    goes_on = begun is not None and begun.is_dir()
    start = time.perf_counter()
    try:
        report = _evaluate(cell, device, begun, tell)
    except Exception as error:  # one that fails, in whatever way, must not take the others along
        reason = one_line(as_typed(error)) or type(error).__name__
        failed[cell.column, cell.entrant.label] = reason
        tell(f"    failed: {reason}")
        return
    seconds = round(time.perf_counter() - start, 1)
    took = {} if goes_on else {SECONDS: seconds}  # what an interrupted process took is not known
    kept.store(cell, dataclasses.replace(report, environment={**report.environment, **took}))
    if begun is not None:
        shutil.rmtree(begun, ignore_errors=True)
    metric = cell.measure.metric
    figures = ", ".join(f"{row.label} {metric.text(row.values.get(metric.name))}" for row in report.rows)
    tell(f"    {metric.heading}: {figures} ({seconds:.0f} s)")


def _evaluate(cell: Cell, device: Any, begun: Path | None, tell: Callable[[str], None]) -> Report:
    """The report of one cell, going on from what was begun; where that fails, anew."""
    if begun is not None and begun.is_dir():
        tell("    going on from what is there")
        try:
            return evaluate(cell, device, begun)
        except (
            FolderError,
            CheckpointError,
            FileExistsError,
        ) as error:  # pictures have other content now, say
            tell(f"    cannot go on, so begins anew: {one_line(as_typed(error))}")
            shutil.rmtree(begun)
    return evaluate(cell, device, begun)


def evaluate(cell: Cell, device: Any, begun: Path | None = None) -> Report:
    """The report of one cell, its rows called as the plan calls them.

    Args:
        cell: what is evaluated.
        device: where.
        begun: folder for results on the way, from which an interrupted evaluation goes on.
    """
    measure, entrant = cell.measure, cell.entrant
    keywords: dict[str, Any] = dict(measure.options)
    if begun is not None:
        keywords["out"] = begun
    if cell.controls:
        keywords["controls"] = cell.controls
    backbone = None if cell.backbone is None else cell.backbone.contender
    contenders: Any = [entrant.contender]
    if entrant.control:
        model = entrant.contender.load(None if backbone is None else backbone.name, device)
        contenders = {entrant.label: CONTROLS[entrant.control](model).eval()}
    report = measure.task.evaluate(
        contenders, measure.data, cell.protocol, backbone=backbone, device=device, **keywords
    )
    return report if entrant.control else rename(report, {entrant.contender.label: entrant.label})


def rename(report: Report, labels: Mapping[str, str]) -> Report:
    """The report with other labels; the controls of a row (``LABEL (CONTROL)``) follow it."""
    rows = []
    for row in report.rows:
        old = next((old for old in labels if row.label == old or row.label.startswith(f"{old} (")), None)
        label = row.label if old is None else labels[old] + row.label.removeprefix(old)
        rows.append(dataclasses.replace(row, label=label))
    return dataclasses.replace(report, rows=tuple(rows))

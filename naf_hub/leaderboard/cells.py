"""Cells of a leaderboard: one contender in one column, whose report is kept in a file."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from ..contenders import Contender
from ..records import UpsamplerRecord
from ..reports import Report, ReportError
from ..training.exclusive import Exclusive
from ..weights.checksums import sha256_of
from .board_plan import Measure, Plan
from .entrants import Entrant


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
    def controls(self) -> tuple[str, ...]:
        """Controls beside the row: those of the measure, unless the row is one itself."""
        return () if self.entrant.control else self.measure.controls

    @property
    def lacks(self) -> tuple[str, ...]:
        """What must be there first and is not, as far as that is plain without loading anything."""
        data, contender = self.measure.data, self.entrant.contender
        found = [
            f"no data at {p}" for p in ([data] if isinstance(data, str) else data) if not Path(p).exists()
        ]
        if contender.weights == "default" and not contender.record.weights:
            found.append(f"no weights of {contender.name} are known; name some, {contender.name}=PATH")
        elif (
            self.backbone is not None
            and contender.weights == "default"
            and isinstance(contender.record, UpsamplerRecord)
            and not contender.record.backbone_agnostic
            and (behind := self.backbone.contender.name) not in contender.record.weights
        ):
            found.append(
                f"no weights of {contender.name} for {behind} are known; name some, {contender.name}=PATH"
            )
        return tuple(found)

    @property
    def file(self) -> str:
        """Name of the file its report is kept in: readable words, and a digest of all that decides the figures."""
        facts: dict[str, Any] = {
            "task": self.measure.task.name,
            "version": self.measure.task.version,
            "data": self.measure.data,
            "protocol": self.protocol,
            "options": self.measure.options,
            "controls": self.controls,
            "contender": _facts(self.entrant.contender),
            "backbone": None if self.backbone is None else _facts(self.backbone.contender),
        }
        if self.entrant.control:
            facts["control"] = self.entrant.control
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
                status = file.stat()
                found["weights"] = _hashed(file, status.st_mtime_ns, status.st_size)
    return found


@functools.lru_cache(maxsize=256)
def _hashed(file: Path, changed: int, size: int) -> str:
    # One file stands in many cells; its time and size tell whether it is still the same.
    return sha256_of(file)


def cells(plan: Plan) -> Iterator[Cell]:
    """All cells, column by column; those of a measure without backbones are one column."""
    for measure in plan.measures:
        for backbone in measure.backbones or (None,):
            for entrant in measure.entrants:
                if entrant.competes(measure.name, None if backbone is None else backbone.label):
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

    @contextlib.contextmanager
    def claim(self, cell: Cell) -> Iterator[None]:
        """The right to evaluate a cell, which ends with the process that has it.

        Raises:
            InUse: another process has it.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = Exclusive(self.folder, f".{cell.file}.lock")
        lock.take()
        try:
            yield
        finally:
            # Who waits for this very file and gets it finds the report. Windows removes no file that is open.
            with contextlib.suppress(OSError):
                lock.path.unlink()
            lock.release()

    def unfinished(self, cell: Cell) -> Path | None:
        """Folder from which an interrupted evaluation of a cell goes on; ``None`` where its task always begins anew."""
        return self.folder / f".{cell.file}.begun" if cell.measure.task.goes_on else None

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

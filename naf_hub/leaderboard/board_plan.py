"""The file that says what a leaderboard compares, read and checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import UnknownNameError
from ..records import BackboneRecord, Record, RestorerRecord, TaskRecord, UpsamplerRecord
from ..registry import registry
from ..reports import Metric
from ..training.settings import ConfigError, build, parse_toml, read_toml
from ..typed_values import fitted_keywords
from .entrants import Entrant, read_entrants, require_known

# Keywords of a task's ``evaluate`` that are no options of a measure.
SET_ELSEWHERE = ("contenders", "data", "protocol", "backbone", "device", "controls", "on_result", "out")


@dataclasses.dataclass(frozen=True)
class Measure:
    """One task with its data and settings: a column for each backbone.

    Attributes:
        name: heading of its columns.
        task: what evaluates.
        data: where the data is, as the task takes it.
        protocol, options: settings of the task, and further keywords of its ``evaluate``.
        controls: see :func:`naf_hub.controls.add_controls`.
        metric: the figure that is shown.
        beside: further figures, which the table of the measure shows and the ranking does not know.
        entrants: what competes; upsamplers, or restorers where the task compares those.
        backbones: of the features; empty for tasks that need none.
        reports: files with reports made elsewhere, whose rows are taken where they compare.
    """

    name: str
    task: Any
    data: str | tuple[str, ...]
    protocol: Mapping[str, Any]
    options: Mapping[str, Any]
    controls: tuple[str, ...]
    metric: Metric
    beside: tuple[Metric, ...]
    entrants: tuple[Entrant, ...]
    backbones: tuple[Entrant, ...]
    reports: tuple[Path, ...]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a leaderboard compares.

    Attributes:
        title, note: above and below the table.
        measures: the columns.
        baseline: label of the row that mean gains are counted from; empty for none.
        paper: published figures: by column and label of the row.
    """

    title: str
    note: str
    measures: tuple[Measure, ...]
    baseline: str
    paper: Mapping[str, Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class _Measure:
    task: str
    data: tuple[str, ...]
    name: str = ""
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    controls: tuple[str, ...] = ()
    metric: str = ""
    beside: tuple[str, ...] = ()
    upsamplers: tuple[Any, ...] = ()
    restorers: tuple[Any, ...] = ()
    backbones: tuple[Any, ...] = ()
    reports: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Plan:
    measures: tuple[Any, ...]
    title: str = "Leaderboard"
    note: str = ""
    upsamplers: tuple[Any, ...] = ()
    restorers: tuple[Any, ...] = ()
    backbones: tuple[Any, ...] = ()
    baseline: str = ""
    paper: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def shipped() -> list[str]:
    """Names of the plans inside the package."""
    folder = resources.files(__package__ or "naf_hub.leaderboard") / "plans"
    if not folder.is_dir():  # none is shipped, and git keeps no empty folder
        return []
    return sorted(
        entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml")
    )


def read_plan(name: str | os.PathLike[str], data_root: str | os.PathLike[str] | None = None) -> Plan:
    """The plan of a TOML file, or of a shipped one by its name.

    Args:
        name: the file, or a name of :func:`shipped`.
        data_root: folder that relative paths of data start from; by default the file's own, for shipped plans the
            working folder.

    Raises:
        FileNotFoundError: neither a file nor a shipped plan.
        ConfigError: an unknown key, a value of the wrong type, two columns or rows of one name; names the file.
        UnknownNameError: a task, upsampler, restorer or backbone that is not registered; names the file.
    """
    path = Path(name)
    if str(name) in shipped():
        text = (resources.files("naf_hub.leaderboard") / "plans" / f"{name}.toml").read_text("utf-8")
        given, home = parse_toml(text, str(name)), Path()
    elif path.is_file():
        given, home = read_toml(path), path.parent
    else:
        known = f", or one of {', '.join(shipped())}" if shipped() else ""
        raise FileNotFoundError(f"no plan {name}: give a TOML file{known}")
    try:
        return _plan(build(_Plan, dict(given)), Path(data_root or home), home)
    except (ConfigError, UnknownNameError) as error:
        raise type(error)(f"{name}: {error}") from error


def _plan(found: _Plan, data_root: Path, home: Path) -> Plan:
    measures = [_measure(build(_Measure, table), found, data_root, home) for table in found.measures]
    if not measures:
        raise ConfigError("no [[measures]]")
    names = [measure.name for measure in measures]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise ConfigError(f"two measures called {twice!r}: give each a name of its own")
    require_known(measures)
    for column, figures in found.paper.items():
        if not (isinstance(figures, Mapping) and all(map(_is_number, figures.values()))):
            raise ConfigError(f"[paper] {column}: give a table of numbers by row")
    return Plan(found.title, found.note, tuple(measures), found.baseline, found.paper)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _measure(table: _Measure, plan: _Plan, data_root: Path, home: Path) -> Measure:
    task = registry().find(table.task, TaskRecord).resolve()()
    restores = issubclass(task.contends, RestorerRecord)
    named = (table.restorers or plan.restorers) if restores else (table.upsamplers or plan.upsamplers)
    kind: type[Record] = RestorerRecord if restores else UpsamplerRecord
    if not named:
        raise ConfigError(f"task {table.task} compares {kind.kind}s, and none is named")
    if not task.metrics:
        raise ConfigError(f"task {table.task} has no figures to compare")
    known = {metric.name: metric for metric in task.metrics}
    for key, names in (("metric", [table.metric] if table.metric else []), ("beside", table.beside)):
        if stranger := next((name for name in names if name not in known), None):
            raise ConfigError(f"{key} = {stranger!r}: {table.task} has {', '.join(known)}")
    data = tuple(str(data_root / Path(entry).expanduser()) for entry in table.data)
    name = table.name or table.task
    try:
        options = fitted_keywords(task.evaluate, table.options, f"measure {name!r}", without=SET_ELSEWHERE)
    except TypeError as error:
        raise ConfigError(str(error)) from error
    return Measure(
        name=name,
        task=task,
        data=data[0] if len(data) == 1 else data,
        protocol=table.protocol,
        options=options,
        controls=() if restores else table.controls,
        metric=known[table.metric] if table.metric else task.metrics[0],
        beside=tuple(known[name] for name in table.beside),
        entrants=read_entrants(named, kind, data_root),
        backbones=()
        if restores
        else read_entrants(table.backbones or plan.backbones, BackboneRecord, data_root),
        reports=tuple(home / Path(entry).expanduser() for entry in table.reports),
    )

"""The file that says what a leaderboard compares, read and checked before anything is loaded."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..contenders import Contender
from ..errors import UnknownNameError
from ..records import BackboneRecord, Record, RestorerRecord, TaskRecord, UpsamplerRecord
from ..registry import registry
from ..reports import Metric
from ..training.settings import ConfigError, build, parse_toml, read_toml
from ..typed_values import fitted_keywords

# Keywords of a task's ``evaluate`` that are no options of a measure.
SET_ELSEWHERE = ("contenders", "data", "protocol", "backbone", "device", "controls", "on_result")


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A contender and what its rows or columns are called; for its rows alone, settings over those of a measure."""

    contender: Contender
    label: str
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)


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
class _Model:
    model: str
    label: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class _Measure:
    task: str
    data: tuple[str, ...]
    name: str = ""
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    controls: tuple[str, ...] = ()
    metric: str = ""
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
    if table.metric and table.metric not in known:
        raise ConfigError(f"metric = {table.metric!r}: {table.task} has {', '.join(known)}")
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
        entrants=_entrants(named, kind),
        backbones=() if restores else _entrants(table.backbones or plan.backbones, BackboneRecord),
        reports=tuple(home / Path(entry).expanduser() for entry in table.reports),
    )


def _entrants(named: Sequence[Any], kind: type[Record]) -> tuple[Entrant, ...]:
    found: list[Entrant] = []
    for entry in named:
        model = build(_Model, entry if isinstance(entry, Mapping) else {"model": entry})
        try:
            contender = Contender.parse(model.model, kind=kind, options=model.options)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        if model.protocol and kind is BackboneRecord:
            raise ConfigError(
                f"backbone {model.model!r}: settings of a protocol belong to a measure or to a row"
            )
        found.append(Entrant(contender, model.label or contender.label, model.protocol))
    labels = [entrant.label for entrant in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise ConfigError(f"{kind.kind} {twice!r} twice: give one of them a label of its own")
    return tuple(found)

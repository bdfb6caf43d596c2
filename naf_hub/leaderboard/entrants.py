"""Rows and backbones of a plan: a model, what it is called, and where it competes."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contenders import Contender
from ..records import BackboneRecord, Record, UpsamplerRecord
from ..training.settings import ConfigError, build

if TYPE_CHECKING:
    from .board_plan import Measure


@dataclasses.dataclass(frozen=True)
class Entrant:
    """A contender and what its rows or columns are called.

    Attributes:
        contender, label: which model, and its name in the tables.
        protocol: for its rows alone, settings over those of a measure.
        control: the model is guided by what must not help, see :data:`naf_hub.controls.CONTROLS`; has no rank.
        measures, backbones: names and labels of those it competes on; none means all.
        ranked: ``False`` for what is a control by its nature, such as a blur: shown, without a rank.
    """

    contender: Contender
    label: str
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    control: str = ""
    measures: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    ranked: bool = True

    def competes(self, measure: str, backbone: str | None) -> bool:
        """Whether it has a row in this column."""
        return (not self.measures or measure in self.measures) and (
            not self.backbones or backbone in self.backbones
        )


@dataclasses.dataclass(frozen=True)
class _Model:
    model: str
    label: str = ""
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    protocol: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    control: str = ""
    measures: tuple[str, ...] = ()
    backbones: tuple[str, ...] = ()
    ranked: bool = True


def read_entrants(named: Sequence[Any], kind: type[Record], root: Path) -> tuple[Entrant, ...]:
    """Models of a plan.

    Args:
        named: each ``NAME[=WEIGHTS]`` or a table.
        kind: record class of what is named.
        root: folder that relative paths of weights start from; what does not lie there is left as it is.

    Raises:
        ConfigError: a key that is not for this kind, empty weights, two of one label.
        UnknownNameError: no such model.
    """
    found: list[Entrant] = []
    for entry in named:
        model = build(_Model, entry if isinstance(entry, Mapping) else {"model": entry})
        try:
            contender = Contender.parse(model.model, kind=kind, options=model.options)
        except ValueError as error:
            raise ConfigError(str(error)) from error
        label = model.label or contender.label + (f" ({model.control})" if model.control else "")
        _check_keys(model, contender, kind)
        found.append(
            Entrant(
                _from_root(contender, root),
                label,
                model.protocol,
                model.control,
                model.measures,
                model.backbones,
                ranked=model.ranked and not model.control,
            )
        )
    labels = [entrant.label for entrant in found]
    twice = next((label for label in labels if labels.count(label) > 1), None)
    if twice:
        raise ConfigError(f"{kind.kind} {twice!r} twice: give one of them a label of its own")
    return tuple(found)


def _check_keys(model: _Model, contender: Contender, kind: type[Record]) -> None:
    if kind is BackboneRecord:
        if model.protocol:
            raise ConfigError(
                f"backbone {model.model!r}: settings of a protocol belong to a measure or to a row"
            )
        if not model.ranked:
            raise ConfigError(f"backbone {model.model!r}: rows are ranked, not backbones")
        if model.measures or model.backbones:
            raise ConfigError(f"backbone {model.model!r}: where it serves is said by the measures")
    if not model.control:
        return
    from ..controls import CONTROLS

    if model.control not in CONTROLS:
        raise ConfigError(f"no control {model.control!r}; there are: {', '.join(CONTROLS)}")
    if not isinstance(contender.record, UpsamplerRecord):
        raise ConfigError(f"{kind.kind} {model.model!r} has no controls")


def _from_root(contender: Contender, root: Path) -> Contender:
    if contender.weights is None or contender.weights in contender.record.weights:
        return contender
    path = root / Path(contender.weights).expanduser()
    return dataclasses.replace(contender, weights=os.fspath(path)) if path.exists() else contender


def require_known(measures: Iterable[Measure]) -> None:
    """Require that rows name measures and backbones of the plan.

    Raises:
        ConfigError: one names another.
    """
    measures = list(measures)
    names = {measure.name for measure in measures}
    backbones = {backbone.label for measure in measures for backbone in measure.backbones}
    for entrant in (entrant for measure in measures for entrant in measure.entrants):
        for word, wanted, known in (
            ("measure", entrant.measures, names),
            ("backbone", entrant.backbones, backbones),
        ):
            if stranger := next((name for name in wanted if name not in known), None):
                there = ", ".join(sorted(known))
                raise ConfigError(f"{entrant.label!r} is for the {word} {stranger!r}; the plan has: {there}")

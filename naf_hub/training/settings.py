"""Settings of a run: one frozen dataclass, built from layers of mappings, each value checked against its type."""

from __future__ import annotations

import dataclasses
import os
import sys
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar

from ..errors import NafHubError, OptionError, UnknownNameError
from ..options import parse_pairs
from ..records import Record
from ..registry import registry
from ..typed_values import fitted, nearest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

Made = TypeVar("Made")
Schedule = Literal["constant", "one_cycle", "plateau", "cosine"]


class ConfigError(NafHubError, ValueError):
    """A setting that does not exist or makes no sense; ``key`` is its name, where it is one alone."""

    def __init__(self, message: str, key: str = "") -> None:
        super().__init__(message)
        self.key = key


class AssignmentError(ConfigError, OptionError):
    """A setting that was typed as ``--set KEY=VALUE`` does not exist or makes no sense: bad usage of a command."""


class Assignments(dict[str, Any]):
    """Keys and values typed as ``--set KEY=VALUE``."""


class FileSettings(dict[str, Any]):
    """Keys and values of a TOML file, whose ``name`` :func:`build` tells with what is wrong in it."""

    def __init__(self, settings: Mapping[str, Any], name: str) -> None:
        super().__init__(settings)
        self.name = name


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What every run decides; the settings of a course extend it by inheritance.

    Attributes:
        steps, lr, beta1, beta2, weight_decay: number of steps of AdamW, and its options.
        decay_vectors: whether parameters of fewer than two dimensions (biases, scales of norms) decay too.
        batch, accumulate: examples in one pass and process, and passes in a step.
        schedule, warmup: see :func:`naf_hub.training.schedule.rate_factor`.
        grad_clip: largest gradient norm; 0 clips nothing.
        ema: decay of the running average of the weights that is then examined and written; 0 is off.
        precision: ``"fp32"`` or ``"bf16"`` (autocast; the loss stays float32).
        seed: decides initial weights, order and every other draw.
        workers: processes that read data.
        log_every, eval_every, preview_every, checkpoint_every: steps between log lines, examinations, preview
            pictures (0: none) and checkpoints.
        keep: number of checkpoints that stay.
        models: keys that name registered models, alone or as ``NAME=WEIGHTS``, and of which kind.
    """

    models: ClassVar[Mapping[str, type[Record]]] = {}

    steps: int = 1000
    batch: int = 4
    accumulate: int = 1
    lr: float = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    decay_vectors: bool = True
    schedule: Schedule = "constant"
    warmup: float = 0.1
    grad_clip: float = 0.0
    ema: float = 0.0
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    eval_every: int = 500
    preview_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2

    free_to_change: ClassVar[frozenset[str]] = frozenset(
        {"workers", "log_every", "eval_every", "preview_every", "checkpoint_every", "keep"}
    )
    """What may differ between a run and its continuation, since it changes no computed weight."""

    def __post_init__(self) -> None:
        for key in ("steps", "batch", "accumulate", "log_every", "eval_every", "checkpoint_every", "keep"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        for key in ("workers", "grad_clip", "weight_decay", "preview_every"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        require(self.lr > 0, "lr", self.lr, "must be positive")
        require(0 <= self.ema < 1, "ema", self.ema, "must lie in [0, 1)")
        require(0 < self.warmup < 1, "warmup", self.warmup, "must lie between 0 and 1")
        for key in ("schedule", "precision"):  # also where the settings were not built from layers
            _converted(key, getattr(self, key), typing.get_type_hints(RunSettings)[key])

    def is_due(self, every: int, step: int) -> bool:
        """Whether what happens ``every`` so many steps (0: never) happens after ``step``; the last counts."""
        return every > 0 and (step % every == 0 or step == self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            k: list(v) if isinstance(v, tuple) else dict(v) if isinstance(v, Mapping) else v
            for k, v in data.items()
        }


def require(condition: bool, key: str, value: Any, reason: str) -> None:
    """Raise a :class:`ConfigError` that names key, value and reason unless ``condition`` holds."""
    if not condition:
        raise ConfigError(f"{key} = {value!r}: {reason}", key)


def difference(old: Mapping[str, Any], new: Mapping[str, Any], free: frozenset[str]) -> list[str]:
    """``key: old -> new`` for every key that differs and is not among the ``free`` ones."""
    keys = [k for k in {**old, **new} if k not in free]
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys if old.get(k) != new.get(k)]


def parse_toml(text: str, name: str) -> FileSettings:
    """Keys and values of the TOML file ``name``.

    Raises:
        ConfigError: not TOML.
    """
    try:
        return FileSettings(tomllib.loads(text), name)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error


def read_toml(path: str | os.PathLike[str]) -> FileSettings:
    """Keys and values of a TOML file.

    Raises:
        ConfigError: not TOML, which is text in UTF-8.
        OSError: the file cannot be read.
    """
    try:
        return parse_toml(Path(path).read_text("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: no text in UTF-8") from error


def parse_set(assignments: Iterable[str]) -> Assignments:
    """Values by key of ``key=value`` texts, see :func:`naf_hub.options.parse_pairs`.

    ``upsampler_options.dim=32`` sets one entry of a table, ``backbone_options.NAME.stride=8`` one entry of
    the table NAME in it.

    Raises:
        AssignmentError: no ``=``, or a key that is both a value and a table.
    """
    try:
        return Assignments(parse_pairs(assignments))
    except ValueError as error:
        raise AssignmentError(f"--set {error}") from error


def build(kind: type[Made], *layers: Mapping[str, Any]) -> Made:
    """Settings of a dataclass from layers of keys, later ones winning; tables are merged.

    Each value is converted by the type of its field, see :func:`naf_hub.typed_values.fitted`; TOML has no null, so that
    the word ``none`` is ``None``.

    Raises:
        ConfigError: an unknown key (the nearest is named), one that has no default and is missing, a value of the
            wrong type or out of range, or a layer that is no table. Names the file that the key is from; an
            :class:`AssignmentError` where it was typed.
        UnknownNameError: a file names a model that is not registered; names the file.
    """
    try:
        made = _build(kind, layers)
    except ConfigError as error:
        source = _source_of(error.key, layers)
        if isinstance(source, FileSettings):
            raise ConfigError(f"{source.name}: {error}", error.key) from error
        if isinstance(source, Assignments):
            raise AssignmentError(f"--set: {error}", error.key) from error
        raise
    for key, record in getattr(kind, "models", {}).items():
        if isinstance(source := _source_of(key, layers), FileSettings):
            _find(source, key, record)
    return made


def _source_of(key: str, layers: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The layer that has the last word on a key."""
    return next((layer for layer in reversed(layers) if key and key in layer), None)


def _find(source: FileSettings, key: str, record: type[Record]) -> None:
    named = source[key]
    for text in [named] if isinstance(named, str) else named:
        try:
            registry().find(text.partition("=")[0], record)
        except UnknownNameError as error:
            raise UnknownNameError(f"{source.name}: {key}: {error}") from error


def _build(kind: type[Made], layers: Sequence[Mapping[str, Any]]) -> Made:
    merged: dict[str, Any] = {}
    for layer in layers:
        if not isinstance(layer, Mapping):
            raise ConfigError(f"{layer!r} stands where a table of settings must be")
        merged = _merge(merged, layer)
    hints = typing.get_type_hints(kind)
    fields = dataclasses.fields(kind)  # pyright: ignore[reportArgumentType]
    names = [field.name for field in fields]
    for key in merged:
        if key not in names:
            raise ConfigError(f"unknown key {key!r}; {nearest(key, names, 'keys')}", key)
    for field in fields:
        free = (field.default, field.default_factory) != (dataclasses.MISSING, dataclasses.MISSING)
        if not free and field.name not in merged:
            raise ConfigError(f"no {field.name!r}, which has no default")
    return kind(**{key: _converted(key, value, hints[key]) for key, value in merged.items()})


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _converted(key: str, value: Any, hint: Any) -> Any:
    """``value`` as the type ``hint`` wants it; a :class:`ConfigError` that says what it must be otherwise."""
    found, word = fitted(value, hint)
    if word:
        raise ConfigError(f"{key} = {value!r}: must be {word}", key)
    return found

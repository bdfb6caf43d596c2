"""Settings from recipe files and ``--set key=value``, checked and made into a configuration."""

from __future__ import annotations

import dataclasses
import difflib
import importlib.resources
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from naf_hub.options import parse_pairs

from .config import ConfigError, TrainConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


def recipes() -> list[str]:
    """Names of the recipe files that ship with naf-hub."""
    folder = importlib.resources.files("naf_hub_reconstruction") / "recipes"
    return sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml"))


def read_recipe(name: str) -> dict[str, Any]:
    """Keys and values of a recipe: the name of a shipped one, or the path of a TOML file.

    Raises:
        ConfigError: no such recipe, or not TOML.
    """
    shipped = name.removesuffix(".toml")
    if shipped in recipes():
        text = (
            importlib.resources.files("naf_hub_reconstruction") / "recipes" / f"{shipped}.toml"
        ).read_text("utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text("utf-8")
    else:
        raise ConfigError(
            f"no recipe {name!r}; shipped ones: {', '.join(recipes())}; or give the path of a TOML file"
        )
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name}: not valid TOML: {error}") from error


def parse_set(assignments: Iterable[str]) -> dict[str, Any]:
    """Values by key of ``key=value`` texts, see :func:`naf_hub.options.parse_pairs`.

    ``upsampler_options.dim=32`` sets one entry of a table, ``backbone_options.NAME.stride=8`` one entry of
    the table NAME in it.

    Raises:
        ConfigError: no ``=``, or a key that is both a value and a table.
    """
    try:
        return parse_pairs(assignments)
    except ValueError as error:
        raise ConfigError(f"--set {error}") from error


def build_config(*layers: Mapping[str, Any]) -> TrainConfig:
    """A configuration from layers of keys, later ones winning; tables are merged.

    Raises:
        ConfigError: an unknown key (the nearest is named), a value of the wrong type or out of range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    return TrainConfig(**{key: _typed(key, value, fields) for key, value in merged.items()})


def _merge(low: Mapping[str, Any], high: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(low)
    for key, value in high.items():
        below = merged.get(key)
        if isinstance(value, Mapping) and isinstance(below, Mapping):
            value = _merge(below, value)
        merged[key] = value
    return merged


def _typed(key: str, value: Any, fields: Mapping[str, dataclasses.Field[Any]]) -> Any:
    if key not in fields:
        near = difflib.get_close_matches(key, fields, n=1)
        raise ConfigError(
            f"unknown key {key!r}"
            + (f"; did you mean {near[0]}?" if near else f"; keys: {', '.join(fields)}")
        )
    kind = str(fields[key].type)
    if kind.startswith("tuple"):
        values = list(value) if isinstance(value, (list, tuple)) else [value]
        number = "float" in kind
        if all(_is_number(v) if number else isinstance(v, str) for v in values):
            return tuple(float(v) if number else v for v in values)
    elif kind.startswith("Mapping"):
        if isinstance(value, Mapping):
            return dict(value)
    elif kind == "float" and _is_number(value):
        return float(value)
    elif kind == "str" and isinstance(value, (str, Path)):
        return str(value)
    elif (kind == "bool" and isinstance(value, bool)) or (
        kind == "int" and isinstance(value, int) and not isinstance(value, bool)
    ):
        return value
    word = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}.get(
        kind, "a list"
    )
    raise ConfigError(f"{key} = {value!r}: must be {'a table' if kind.startswith('Mapping') else word}")


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)

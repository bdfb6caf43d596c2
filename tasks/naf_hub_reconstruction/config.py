"""The training configuration: one frozen record, filled from a recipe file and ``--set key=value``."""

from __future__ import annotations

import dataclasses
import importlib.resources
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from naf_hub.errors import NafHubError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


class ConfigError(NafHubError, ValueError):
    """A configuration key or value that does not exist or makes no sense."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run computes. Lengths are image pixels.

    Defaults are the published code (NAF, arXiv 2511.18452, and its release).

    Attributes:
        upsampler, upsampler_options: what is trained, and its constructor options.
        init: weights to start from (a named set, a path or ``hf://``); empty is random.
        backbone, backbone_weights, backbone_options: the frozen teacher.
        images: files, folders or patterns to train on.
        held_out: images for the held-out error, disjoint from ``images``; may be empty.
        resize: short side every image is resized to (antialiased) before cropping; 0 keeps its size,
            enlarging only what is smaller than the crop.
        min_side: images with a shorter side are skipped, counted and named.
        crop: side of the square crop whose features are the target.
        random_crop, flip: random position, random horizontal flip.
        views: fixed crops per image that recur every ``views`` epochs; 0 draws new ones for ever.
            Cached features need at least 1.
        down: side of the input image over that of the crop, one drawn per batch.
        down_range: if given, the side is drawn uniformly between these two fractions instead.
        pooled: share of steps whose input features are the target's own, averaged to the input grid, in
            place of those of the smaller image (0 as published). Features of a smaller image differ by more
            than detail, and the error is least if that is smoothed away; pooled inputs reward sharpness.
        guidance: side of the guidance image over that of the target grid, one drawn per batch.
        guidance_max: upper bound of that side.
        steps, batch, lr, beta1, beta2, weight_decay: AdamW on the mean squared error.
        schedule: ``"constant"`` or ``"one_cycle"`` (cosine up over ``warmup`` of the steps, then down).
        grad_clip: largest gradient norm; 0 clips nothing.
        precision: ``"fp32"`` or ``"bf16"`` (autocast; the loss stays float32).
        seed: decides initial weights, order, crops and every other draw.
        workers: processes that read images.
        log_every, eval_every, eval_images, checkpoint_every, keep: steps between log lines, held-out
            evaluations (of that many images) and checkpoints, and how many checkpoints stay.
    """

    upsampler: str = "naf"
    upsampler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    init: str = ""
    backbone: str = ""
    backbone_weights: str = "default"
    backbone_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    resize: int = 512
    min_side: int = 0
    crop: int = 512
    random_crop: bool = False
    flip: bool = False
    views: int = 0
    down: tuple[float, ...] = (0.5,)
    down_range: tuple[float, ...] = ()
    pooled: float = 0.0
    guidance: tuple[float, ...] = (4.0,)
    guidance_max: int = 224
    steps: int = 25_000
    batch: int = 4
    lr: float = 2e-4
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-5
    schedule: str = "constant"
    warmup: float = 0.1
    grad_clip: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    eval_every: int = 500
    eval_images: int = 32
    checkpoint_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for key in (
            "crop",
            "steps",
            "batch",
            "log_every",
            "eval_every",
            "eval_images",
            "checkpoint_every",
            "keep",
        ):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        for key in ("resize", "min_side", "views", "workers", "grad_clip", "weight_decay", "guidance_max"):
            _require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        _require(self.lr > 0, "lr", self.lr, "must be positive")
        _require(0 <= self.pooled <= 1, "pooled", self.pooled, "must lie between 0 and 1")
        _require(0 < self.warmup < 1, "warmup", self.warmup, "must lie between 0 and 1")
        _require(bool(self.down), "down", self.down, "needs at least one fraction")
        _require(all(0 < v <= 1 for v in self.down), "down", self.down, "fractions must lie in (0, 1]")
        low_high = self.down_range
        ordered = not low_high or (len(low_high) == 2 and 0 < low_high[0] <= low_high[1] <= 1)
        _require(ordered, "down_range", low_high, "must be [low, high] with 0 < low <= high <= 1")
        _require(
            bool(self.guidance) and min(self.guidance) > 0, "guidance", self.guidance, "must be positive"
        )
        _require(
            self.schedule in ("constant", "one_cycle"), "schedule", self.schedule, "is constant or one_cycle"
        )
        _require(self.precision in ("fp32", "bf16"), "precision", self.precision, "is fp32 or bf16")
        too_small = 0 < self.resize < self.crop
        _require(not too_small, "resize", self.resize, f"must be 0 or at least the crop ({self.crop})")

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {
            k: list(v) if isinstance(v, tuple) else dict(v) if isinstance(v, Mapping) else v
            for k, v in data.items()
        }


# What may differ between a run and its continuation: none of these changes a computed number.
FREE_TO_CHANGE = frozenset(
    {"workers", "log_every", "eval_every", "eval_images", "held_out", "checkpoint_every", "keep"}
)


def _require(condition: bool, key: str, value: Any, reason: str) -> None:
    if not condition:
        raise ConfigError(f"{key} = {value!r}: {reason}")


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
    """``key=value`` pairs; values are TOML (``0.5``, ``[1, 2]``, ``true``), bare words are text.

    ``upsampler_options.dim=32`` sets one entry of a table.

    Raises:
        ConfigError: no ``=``.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, text = (part.strip() for part in assignment.partition("="))
        if not equals or not key:
            raise ConfigError(f"--set {assignment!r}: write key=value")
        value = parse_value(text)
        table, dot, entry = key.partition(".")
        if dot:
            values.setdefault(table, {})[entry] = value
        else:
            values[key] = value
    return values


def parse_value(text: str) -> Any:
    """A TOML value, or the text itself where it is none."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def build_config(*layers: Mapping[str, Any]) -> TrainConfig:
    """A configuration from layers of keys, later ones winning; tables are merged.

    Raises:
        ConfigError: an unknown key (the nearest is named), a value of the wrong type or out of range.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        for key, value in layer.items():
            if isinstance(value, Mapping):
                merged[key] = {**merged.get(key, {}), **value}
            else:
                merged[key] = value
    fields = {f.name: f for f in dataclasses.fields(TrainConfig)}
    return TrainConfig(**{key: _typed(key, value, fields) for key, value in merged.items()})


def _typed(key: str, value: Any, fields: Mapping[str, dataclasses.Field[Any]]) -> Any:
    if key not in fields:
        import difflib

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


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for every key that a continued run may not change."""
    keys = [k for k in {**old, **new} if k not in FREE_TO_CHANGE]
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys if old.get(k) != new.get(k)]

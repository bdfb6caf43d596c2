"""The training configuration: one frozen record of everything that decides what a run computes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from naf_hub.errors import NafHubError


class ConfigError(NafHubError, ValueError):
    """A configuration key or value that does not exist or makes no sense."""


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Everything that decides what a training run computes. Lengths are image pixels.

    Defaults are the published code (NAF, arXiv 2511.18452, and its release).

    Attributes:
        upsampler, upsampler_options: what is trained, and its constructor options.
        init: weights to start from (a named set, a path or ``hf://``); empty is random.
        backbone: the frozen teacher, as ``NAME`` or ``NAME=WEIGHTS``; of several, one is drawn per step. A
            name that comes again is called ``NAME#2``.
        backbone_weights: of teachers named without their own.
        backbone_options: constructor options of every teacher; a table under a teacher's name is for it alone.
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
        steps, lr, beta1, beta2, weight_decay: AdamW on the mean squared error.
        batch, accumulate: crops per forward pass and process, and passes per step: a step sees
            ``batch * accumulate`` crops times the number of processes.
        schedule: ``"constant"`` or ``"one_cycle"`` (cosine up over ``warmup`` of the steps, then down).
        grad_clip: largest gradient norm; 0 clips nothing.
        ema: decay of the running average of the weights that is then evaluated and shipped; 0 is off.
        precision: ``"fp32"`` or ``"bf16"`` (autocast; the loss stays float32).
        seed: decides initial weights, order, crops and every other draw.
        workers: processes that read images.
        log_every, eval_every, eval_images, preview_every, checkpoint_every, keep: steps between log lines,
            held-out evaluations (of that many images), preview pictures (0: none) and checkpoints, and how
            many checkpoints stay.
    """

    upsampler: str = "naf"
    upsampler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    init: str = ""
    backbone: tuple[str, ...] = ()
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
    accumulate: int = 1
    lr: float = 2e-4
    beta1: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 1e-5
    schedule: str = "constant"
    warmup: float = 0.1
    grad_clip: float = 0.0
    ema: float = 0.0
    precision: str = "fp32"
    seed: int = 0
    workers: int = 0
    log_every: int = 10
    eval_every: int = 500
    eval_images: int = 32
    preview_every: int = 500
    checkpoint_every: int = 500
    keep: int = 2

    def __post_init__(self) -> None:
        for key in (
            "crop",
            "steps",
            "batch",
            "accumulate",
            "log_every",
            "eval_every",
            "eval_images",
            "checkpoint_every",
            "keep",
        ):
            _require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        not_negative = (
            "resize",
            "min_side",
            "views",
            "workers",
            "grad_clip",
            "weight_decay",
            "guidance_max",
            "preview_every",
        )
        for key in not_negative:
            _require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        _require(self.lr > 0, "lr", self.lr, "must be positive")
        _require(0 <= self.pooled <= 1, "pooled", self.pooled, "must lie between 0 and 1")
        _require(0 <= self.ema < 1, "ema", self.ema, "must lie in [0, 1)")
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
    {
        "workers",
        "log_every",
        "eval_every",
        "eval_images",
        "held_out",
        "preview_every",
        "checkpoint_every",
        "keep",
    }
)


def _require(condition: bool, key: str, value: Any, reason: str) -> None:
    if not condition:
        raise ConfigError(f"{key} = {value!r}: {reason}")


def difference(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """``key: old -> new`` for every key that a continued run may not change."""
    keys = [k for k in {**old, **new} if k not in FREE_TO_CHANGE]
    return [f"{k}: {old.get(k)!r} -> {new.get(k)!r}" for k in keys if old.get(k) != new.get(k)]

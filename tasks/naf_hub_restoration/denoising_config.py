"""What denoising trains: one frozen record of everything that decides what a run computes, and recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from naf_hub.records import RestorerRecord
from naf_hub.training.recipes import Recipes
from naf_hub.training.settings import ConfigError, RunSettings, require

from .noise import Kind, Noise

RECIPES = Recipes("naf_hub_restoration")


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunSettings):
    """Everything that decides what a training run computes. Lengths are image pixels.

    Defaults are the published code (NAF, arXiv 2511.18452, and its release) with noise of the range that the paper
    tests. Steps, learning rate and so on are those of :class:`~naf_hub.training.settings.RunSettings`.

    Attributes:
        restorer, restorer_options: what is trained, and its constructor options.
        init: weights to start from (a named set, a path or ``hf://``); empty is random.
        images: files, folders or patterns to train on.
        held_out: images for the held-out figures, disjoint from ``images``; may be empty.
        noise: ``"gaussian"`` or ``"salt_and_pepper"``.
        level: standard deviation or probability; of two numbers, the lowest and the highest, one is drawn a batch.
        resize: short side every image is resized to (antialiased) before cropping; 0 keeps its size,
            enlarging only what is smaller than the crop.
        min_side: images with a shorter side are skipped, counted and named.
        crop: side of the square crops.
        random_crop, flip: random position, random horizontal flip.
        l1, l2, ssim: weights of the terms of the loss.
        eval_images: how many of the held-out images are examined.
    """

    restorer: str = "naf_denoiser"
    restorer_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    init: str = ""
    images: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    noise: Kind = "gaussian"
    level: tuple[float, ...] = (0.1, 0.5)
    resize: int = 448
    min_side: int = 0
    crop: int = 448
    random_crop: bool = False
    flip: bool = False
    l1: float = 1.0
    l2: float = 5.0
    ssim: float = 0.2
    steps: int = 25_000
    lr: float = 2e-4
    weight_decay: float = 1e-5
    eval_images: int = 32

    models: ClassVar[dict[str, type[RestorerRecord]]] = {"restorer": RestorerRecord}
    free_to_change: ClassVar[frozenset[str]] = RunSettings.free_to_change | {"eval_images", "held_out"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("crop", "eval_images"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        for key in ("resize", "min_side", "l1", "l2", "ssim"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        require(self.l1 + self.l2 + self.ssim > 0, "l1", self.l1, "one of l1, l2, ssim must be positive")
        require(len(self.level) in (1, 2), "level", self.level, "must be one number, or [low, high]")
        too_small = 0 < self.resize < self.crop
        require(not too_small, "resize", self.resize, f"must be 0 or at least the crop ({self.crop})")
        try:
            self.added_noise  # noqa: B018
        except ValueError as error:
            raise ConfigError(str(error), "level") from error

    @property
    def added_noise(self) -> Noise:
        """What is added to the crops."""
        return Noise(self.noise, self.level[0], self.level[-1])

"""What reconstruction trains: one frozen record of everything that decides what a run computes, and recipes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from naf_hub.records import BackboneRecord, UpsamplerRecord
from naf_hub.training.recipes import Recipes
from naf_hub.training.settings import RunSettings, require

from .loss_terms import DISTILLED, VIEWS, Loss


@dataclasses.dataclass(frozen=True)
class TrainConfig(RunSettings):
    """Everything that decides what a training run computes. Lengths are image pixels.

    Defaults are the published code (NAF, arXiv 2511.18452, and its release). Steps, learning rate and so on are
    those of :class:`~naf_hub.training.settings.RunSettings`, of AdamW.

    Attributes:
        upsampler, upsampler_options: what is trained, and its constructor options.
        loss: what is minimised, as ``"mse"`` or ``"cosine+scaled_mse+0.1*input"``; see
            :mod:`~naf_hub_reconstruction.loss_terms`.
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
        views: number of fixed crops per image that recur every ``views`` epochs; 0 draws new ones for ever.
            Cached features need at least 1.
        down: side of the input image over that of the crop, one drawn per batch.
        down_range: if given, the side is drawn uniformly between these two fractions instead.
        pooled: share of steps whose input features are the target's own, averaged to the input grid, in
            place of those of the smaller image (0 as published). Features of a smaller image differ by more
            than detail, and the error is least if that is smoothed away; pooled inputs reward sharpness.
        windows: if given as [low, high], a step learns from a square part of the crop: its side, in cells of the
            target, is drawn between these two, its place differs by image, and with ``flip`` half of the parts
            are mirrored, all without another pass of the backbone. The ratios of ``down`` must be whole.
        guidance: side of the guidance image over that of the target grid, one drawn per batch.
        guidance_max: upper bound of that side.
        fine_output: share of steps whose output is made at the size of the guidance, where that is more, and averaged
            to the target's grid: a query is then a pixel, as where users upsample to the image's size, and not an
            average of pixels.
        levels: if not 0, a step learns from so many inputs of each crop: half its side, a quarter and so on, each
            guided by itself as a picture of that size. Outputs are compared at every doubling up to the crop's grid,
            each with the features of the picture that has that grid; the errors are added. ``down``, ``guidance``
            and ``guidance_max`` then only decide how held-out images are examined.
        level_steps: ``"all"`` those doublings, as UPLiFT is trained, or ``"first"`` of each input, as LiFT.
        jitters: of ``loss="multiview"``: how many views of the input image a step compares. The image is guided by
            itself; ``guidance`` and ``guidance_max`` then only decide how held-out images are examined.
        jitter_zoom, jitter_border: how far at most a view is zoomed in, and how far it may lie beyond the image, as a
            share of its side.
        projections: random directions in which features of views are compared; 0 compares the features themselves.
        downsampler: what takes the upsampled views to cells: ``"attention"``, where features decide too, or
            ``"kernel"``, a weighted mean that is always the same.
        kernel: side of the patches it averages, in pixels of the result; 0 is one cell.
        cell_pixels: pixels of the result per cell and axis; 0 is those of the image.
        eval_images: how many of the held-out images are examined.
    """

    upsampler: str = "naf"
    upsampler_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    loss: str = "mse"
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
    windows: tuple[int, ...] = ()
    guidance: tuple[float, ...] = (4.0,)
    guidance_max: int = 224
    fine_output: float = 0.0
    levels: int = 0
    level_steps: Literal["all", "first"] = "all"
    jitters: int = 5
    jitter_zoom: float = 2.0
    jitter_border: float = 0.09
    projections: int = 30
    downsampler: Literal["attention", "kernel"] = "attention"
    kernel: int = 0
    cell_pixels: int = 0
    steps: int = 25_000
    lr: float = 2e-4
    weight_decay: float = 1e-5
    eval_images: int = 32

    models: ClassVar[dict[str, type[UpsamplerRecord | BackboneRecord]]] = {
        "upsampler": UpsamplerRecord,
        "backbone": BackboneRecord,
    }
    free_to_change: ClassVar[frozenset[str]] = RunSettings.free_to_change | {"eval_images", "held_out"}

    def __post_init__(self) -> None:
        super().__post_init__()
        for key in ("crop", "eval_images"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        for key in ("resize", "min_side", "views", "guidance_max", "levels"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        self._check_views()
        apart = not (self.levels and (self.pooled or self.windows or self.down_range or self.fine_output))
        require(apart, "levels", self.levels, "goes with none of pooled, windows, down_range and fine_output")
        require(0 <= self.pooled <= 1, "pooled", self.pooled, "must lie between 0 and 1")
        require(bool(self.down), "down", self.down, "needs at least one fraction")
        require(all(0 < v <= 1 for v in self.down), "down", self.down, "fractions must lie in (0, 1]")
        require(0 <= self.fine_output <= 1, "fine_output", self.fine_output, "must lie between 0 and 1")
        low_high = self.down_range
        ordered = not low_high or (len(low_high) == 2 and 0 < low_high[0] <= low_high[1] <= 1)
        require(ordered, "down_range", low_high, "must be [low, high] with 0 < low <= high <= 1")
        side = self.windows
        ordered = not side or (len(side) == 2 and 0 < side[0] <= side[1])
        require(ordered, "windows", side, "must be [low, high] with 0 < low <= high")
        require(not (side and low_high), "windows", side, "needs the whole ratios of down, not down_range")
        require(bool(self.guidance) and min(self.guidance) > 0, "guidance", self.guidance, "must be positive")
        too_small = 0 < self.resize < self.crop
        require(not too_small, "resize", self.resize, f"must be 0 or at least the crop ({self.crop})")

    def _check_views(self) -> None:
        objective = Loss(self.loss)
        for key in ("jitters", "jitter_zoom"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "must be at least 1")
        for key in ("projections", "kernel", "cell_pixels"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        border = self.jitter_border
        require(0 <= border <= 0.5, "jitter_border", border, "must lie between 0 and 0.5")
        apart = not (objective.by_views and (self.levels or self.pooled or self.windows or self.fine_output))
        alone = f"{VIEWS} goes with none of levels, pooled, windows and fine_output"
        require(apart, "loss", self.loss, alone)
        smaller = not objective.weight(DISTILLED) or max(self.down_range or self.down, default=0) < 1
        larger = f"{DISTILLED} takes parts of a larger image: down must be below 1"
        require(smaller, "loss", self.loss, larger)


RECIPES = Recipes("naf_hub_reconstruction")
recipes, read_recipe = RECIPES.names, RECIPES.read

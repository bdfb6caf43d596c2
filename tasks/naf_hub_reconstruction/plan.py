"""Which images a training step sees and at what sizes: pure functions of the seed and the step.

Nothing here has state, so a run continues exactly from its step number alone, with any number of workers.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator, Sequence

from naf_hub.training.course import ALONE, Share
from naf_hub.training.order import EpochOrder
from naf_hub.training.settings import ConfigError

from .config import TrainConfig


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Sides of the square images of one batch, in pixels, and of the target grid, in cells.

    With ``pooled`` the input features are the target's, averaged to the grid of the input image.
    ``teacher`` is the place in the list of backbones of the one that gives the features. ``window`` is the side, in
    cells, of the part of the target grid that the step learns from; the guidance is an image of that part. With
    ``fine`` the output has the guidance's size and is averaged to the target's.
    """

    crop: int
    input: int
    guidance: int
    grid: int
    pooled: bool = False
    teacher: int = 0
    window: int = 0
    fine: bool = False

    @property
    def part(self) -> int:
        """Side of what the step learns from, in cells of the target grid."""
        return self.window or self.grid


@dataclasses.dataclass(frozen=True)
class Item:
    """One place in a batch: which image, which of its crops, at what sizes, and the first cell of its window."""

    index: int
    view: int
    sizes: Sizes
    corner: tuple[int, int] = (0, 0)
    mirrored: bool = False


def crop_side(crop: int, patch: int) -> int:
    """The largest multiple of ``patch`` that fits ``crop``, so that crop and grid line up.

    Raises:
        ValueError: the crop holds no patch.
    """
    if crop < patch:
        raise ValueError(f"crop = {crop} is smaller than a patch of the backbone ({patch} pixels)")
    return crop // patch * patch


def input_side(side: int, patch: int, fraction: float) -> int:
    """``fraction`` of ``side`` rounded to a multiple of ``patch``, at least one patch."""
    return max(1, round(side * fraction / patch)) * patch


def guidance_side(grid: int, scale: float, largest: int) -> int:
    """``scale`` pixels per cell of the target grid, at most ``largest`` (0: no bound).

    The published recipe is 4 pixels and a bound of 224.
    """
    side = max(2, round(grid * scale))
    return min(side, largest) if largest else side


class Plan:
    """Which items make up which step, and which of them a process works on.

    Args:
        config: see :class:`TrainConfig`.
        images: how many there are.
        patches: image pixels per cell, of each backbone.
    """

    def __init__(self, config: TrainConfig, images: int, patches: Sequence[int]) -> None:
        self.config, self.images, self.patches = config, images, tuple(patches)
        self._order = EpochOrder(config.seed, images)
        for patch in self.patches:
            if config.levels and config.crop < patch << config.levels:
                raise ConfigError(
                    f"levels = {config.levels}: the smallest input of crop = {config.crop} holds no patch of the "
                    f"backbone ({patch} pixels)"
                )
            grid = crop_side(config.crop, patch) // patch  # raises early
            for fraction in config.down if config.windows else ():
                self._sides_of_windows(grid, input_side(grid, 1, fraction))

    def crop(self, teacher: int) -> int:
        """Side of the crops that a backbone gets, in pixels; with levels, that of the coarsest is whole patches."""
        return crop_side(self.config.crop, self.patches[teacher] << self.config.levels)

    def sizes(self, step: int) -> Sizes:
        """The backbone and the sizes drawn for ``step``."""
        config = self.config
        draw = random.Random(f"{config.seed}/sizes/{step}")
        fraction = draw.uniform(*config.down_range) if config.down_range else draw.choice(config.down)
        scale = draw.choice(config.guidance)
        pooled = draw.random() < config.pooled
        teacher = draw.randrange(len(self.patches))
        patch, crop = self.patches[teacher], self.crop(teacher)
        grid = crop // patch
        small = input_side(crop, patch, fraction)
        window = draw.choice(self._sides_of_windows(grid, small // patch)) if config.windows else 0
        guidance = guidance_side(window or grid, scale, config.guidance_max)
        fine = bool(config.fine_output) and draw.random() < config.fine_output and guidance > (window or grid)
        return Sizes(crop, small, guidance, grid, pooled, teacher, window, fine)

    def _sides_of_windows(self, grid: int, small: int) -> list[int]:
        """Sides a window may have, in cells of the target: those that hold whole cells of the input."""
        low, high = self.config.windows
        if grid % small:
            raise ConfigError(
                f"windows need whole ratios, but a target of {grid} cells and an input of {small} have none: "
                "choose another crop or other fractions in down"
            )
        found = [n for n in range(grid // small, grid + 1, grid // small) if low <= n <= high]
        if not found:
            raise ConfigError(
                f"windows = {list(self.config.windows)}: none holds whole cells of an input of {small} cells "
                f"to a target of {grid}"
            )
        return found

    def inputs(self, teacher: int) -> list[int]:
        """Sides of input images; none are listed for a ``down_range``."""
        config, patch, crop = self.config, self.patches[teacher], self.crop(teacher)
        fractions = () if config.down_range else config.down
        return sorted({input_side(crop, patch, fraction) for fraction in fractions})

    def items(self, step: int, share: Share = ALONE) -> list[Item]:
        """The items of ``step`` for one process, ``batch * accumulate`` of them.

        Every image comes once an epoch, in a new order each time, whatever the number of processes.
        """
        sizes = self.sizes(step)
        count = self.config.batch * self.config.accumulate
        start = (step * share.processes + share.rank) * count
        return [self._item(position, sizes) for position in range(start, start + count)]

    def _item(self, position: int, sizes: Sizes) -> Item:
        epoch, index = self._order.place(position)
        view = epoch % self.config.views if self.config.views else epoch
        if not sizes.window:
            return Item(index, view, sizes)
        draw = random.Random(f"{self.config.seed}/window/{position}")
        ratio = sizes.crop // sizes.input
        top, left = (ratio * draw.randint(0, (sizes.grid - sizes.window) // ratio) for _ in range(2))
        mirrored = self.config.flip and draw.random() < 0.5
        return Item(index, view, sizes, (top, left), mirrored)


class Steps:
    """The items of one process in steps ``start`` to ``stop - 1``, as a ``batch_sampler``."""

    def __init__(self, plan: Plan, start: int, stop: int, share: Share = ALONE) -> None:
        self.plan, self.start, self.stop, self.share = plan, start, stop, share

    def __len__(self) -> int:
        return max(0, self.stop - self.start)

    def __iter__(self) -> Iterator[list[Item]]:
        return (self.plan.items(step, self.share) for step in range(self.start, self.stop))

"""Layers that make their output by strips of rows, so that what they need beside it stays small."""

from __future__ import annotations

import abc
import math

import torch.nn.functional as F
from torch import Tensor, nn

from .budget import working_memory
from .pieces import Range, assemble, split
from .precision import without_autocast, working_dtype
from .sizes import are_equal, are_known, resize_matrix

# Why a method that counts its doublings by the sizes makes no graph that leaves them open.
COUNTED = (
    "it doubles as often as the output needs, which no graph can count; say how often by steps= (4: x16)"
)


class StripLayer(nn.Module, abc.ABC):
    """A layer that makes a map ``scale`` times as large and can make any of its rows alone.

    Attributes:
        scale: output pixels per cell and axis.
        channels: C of the features.
    """

    scale: int
    channels: int

    @property
    def outputs(self) -> int:
        """Channels of the output."""
        return self.channels

    def prepared(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """What :meth:`strip` works on: the maps given, and any that can only be made whole."""
        return maps

    @abc.abstractmethod
    def strip(self, rows: Range, *maps: Tensor) -> Tensor:
        """The output (B, C, s P, s W) of P rows of the features, in :func:`working_dtype` of theirs.

        Args:
            rows: of the features.
            maps: the features (B, C, H, W) and what else :meth:`prepared` gives, whole.
        """

    @abc.abstractmethod
    def row_values(self, width: int) -> int:
        """How many numbers the strip of one row of ``width`` cells needs at a time, of one image."""

    def make(self, *maps: Tensor, size: tuple[int, int] | None = None, memory: int | None = None) -> Tensor:
        """The whole output, strip by strip.

        Args:
            maps: the features (B, C, H, W) and what else the layer takes.
            size: (H', W') that the output is resized to, see :func:`shrink`; default its own. A smaller output is made
                at once, without the map that it is shrunk from, but not where sizes are unknown.
            memory: bytes to keep to beside maps and output, as far as single rows allow; default what suits the
                device.

        Returns:
            (B, C, s H, s W), or (B, C, H', W'), in the dtype of the features.
        """
        features = maps[0]
        batch, channels, height, width = features.shape
        if channels != self.channels:
            raise ValueError(
                f"{type(self).__name__} is made for {self.channels} feature channels, got {channels}"
            )
        scale, full = self.scale, (height * self.scale, width * self.scale)
        size = size or full
        known = are_known(batch, height, width, *size)
        if not are_equal(size, full) and not (known and size[0] <= full[0] and size[1] <= full[1]):
            return shrink(self.make(*maps, memory=memory), size)
        maps = self.prepared(*maps)
        if not known:
            return self.strip((0, height), *maps).to(features.dtype)
        itemsize = working_dtype(features.dtype).itemsize
        fitting = working_memory(memory, features.device.type) // (batch * self.row_values(width) * itemsize)

        def piece(_: Range, rows: Range, __: Range) -> Tensor:
            if size == full:
                return self.strip((rows[0] // scale, rows[1] // scale), *maps)
            first, last = _needed(rows, full[0], size[0])
            cells = (first // scale, -(-last // scale))
            within = (cells[0] * scale, cells[1] * scale)
            return _shrink_part(self.strip(cells, *maps), within, rows, full, size)

        step = max(1, fitting) * scale
        if size != full:  # as many rows as never need more cells than fit
            step = max(1, int(((fitting - 1) * scale - 1) * size[0] / full[0] - 1))
        return assemble(
            piece,
            (batch, self.outputs, *size),
            features,
            (*maps[1:], *self.parameters()),
            rows=split(size[0], step),
        )


def count_doublings(grid: tuple[int, int], size: tuple[int, int]) -> int:
    """How often a grid must be doubled to be no smaller than ``size`` on either axis."""
    steps = 0
    while grid[0] << steps < size[0] or grid[1] << steps < size[1]:
        steps += 1
    return steps


def shrink(features: Tensor, size: tuple[int, int]) -> Tensor:
    """Bilinear with antialias, half-pixel centres (enlarged, antialias changes nothing); dtype as given."""
    wide = features.to(working_dtype(features.dtype))
    grid = (wide.shape[-2], wide.shape[-1])
    if not are_known(*grid, *size):
        rows, columns = (resize_matrix(*sides, wide) for sides in zip(grid, size, strict=True))
        return (rows @ (wide @ columns.T)).to(features.dtype)
    return F.interpolate(wide, size, mode="bilinear", antialias=True).to(features.dtype)


def _needed(rows: Range, n_in: int, n_out: int) -> Range:
    """The input rows that some rows of :func:`shrink` are made of."""
    ratio = n_in / n_out
    first, last = (rows[0] - 0.5) * ratio - 0.5, (rows[1] + 0.5) * ratio - 0.5
    return max(0, math.floor(first)), min(n_in, math.ceil(last))


@without_autocast
def _shrink_part(
    part: Tensor, within: Range, rows: Range, full: tuple[int, int], size: tuple[int, int]
) -> Tensor:
    """Some rows of :func:`shrink`, of the input rows ``within``, from an input of ``full`` size."""
    weights = resize_matrix(full[0], size[0], part, rows, within)
    return weights @ F.interpolate(part, (part.shape[2], size[1]), mode="bilinear", antialias=True)

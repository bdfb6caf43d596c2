"""Pixels of an axis grouped by their nearest cell, and the cells that each group reaches."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from naf_hub.parts.pieces import Range


class Reach(NamedTuple):
    """The cells that some neighbouring tiles reach, of which a tile at the border has fewer: it carries others unused.

    Attributes:
        cells: (tiles, width) indices.
        times: (tiles, offsets, width), 1 where an offset, moved inside the grid, meets a cell.
    """

    cells: Tensor
    times: Tensor


class Tiles:
    """One axis of the output: a tile for each cell, of the pixels that are nearest to it.

    Tiles are padded to one size by pixels that :attr:`back` leaves out.

    Args:
        cells: on this axis.
        pixels: on this axis, at least as many.
        scale: pixels per cell, from the first pixel on.
        device: of all tensors.

    Attributes:
        size: pixels per tile.
        pixels: (cells, size) indices.
        offset: (cells, size) pixels from the cell's centre, float64.
        back: (pixels,) each pixel's place among those of the tiles.
    """

    def __init__(self, cells: int, pixels: int, scale: float, device: torch.device) -> None:
        self.count, self.scale = cells, scale
        index = torch.arange(pixels)
        # Half to even, as published.
        nearest = ((index + 0.5).double() / scale - 0.5).round().clamp(0, cells - 1).long()
        counts = nearest.bincount(minlength=cells)
        first = counts.cumsum(0) - counts
        self.size = int(counts.max())
        self.nearest: list[int] = nearest.tolist()
        self.ends: list[int] = counts.cumsum(0).tolist()
        inside = torch.arange(self.size)
        self.pixels = (first[:, None] + inside).clamp(max=pixels - 1).to(device)
        centre = (torch.arange(cells).double() + 0.5) * scale - 0.5
        self.offset = self.pixels - centre[:, None].to(device)
        self.back = (nearest * self.size + index - first[nearest]).to(device)

    def ranges(self, tiles: int) -> list[Range]:
        """Pixel ranges of ``tiles`` tiles each."""
        starts = range(0, self.count, tiles)
        edges = [0, *(self.ends[min(start + tiles, self.count) - 1] for start in starts)]
        return list(itertools.pairwise(edges))

    def tiles(self, pixels: Range) -> slice:
        """The tiles of a range of pixels that starts and ends with one."""
        return slice(self.nearest[pixels[0]], self.nearest[pixels[1] - 1] + 1)

    def places(self, pixels: Range) -> Tensor:
        """Where a range's pixels are among those of its tiles."""
        return self.back[slice(*pixels)] - self.nearest[pixels[0]] * self.size

    def reach(self, tiles: slice, radius: int) -> Reach:
        """Cells within ``radius`` of some tiles' own."""
        own = torch.arange(tiles.start, tiles.stop, device=self.pixels.device)[:, None]
        start, stop = (own - radius).clamp(min=0), (own + radius + 1).clamp(max=self.count)
        width = int((stop - start).max())
        cells = start.clamp(max=self.count - width) + torch.arange(width, device=own.device)
        met = (own + torch.arange(-radius, radius + 1, device=own.device)).clamp(0, self.count - 1)
        return Reach(cells, (met[:, :, None] == cells[:, None]).double())

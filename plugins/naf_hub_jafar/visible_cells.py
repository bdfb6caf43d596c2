"""Which feature cells each output pixel may attend to, one axis at a time, and how to tile them.

A window is the product of the cells of a row and the cells of a column, and along an axis those of a pixel are a run:
neighbouring pixels share most of theirs, so a tile of pixels is served by one block of cells.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from naf_hub.parts.constants import constant_for_compilers

WINDOWS = ("cropped", "shifted")

# (first cell, cell behind the last) of each pixel of an axis.
Runs = tuple[np.ndarray, np.ndarray]


def visible_runs(cells: int, pixels: int, ratio: float, window: str) -> Runs:
    """First visible cell, and the one behind the last, of each pixel of an axis: (pixels,) each.

    Args:
        cells: on this axis.
        pixels: on this axis.
        ratio: how far a pixel sees to either side, as a share of the axis; not positive means everywhere.
        window: ``"cropped"`` at the borders (AnyUp's default), or ``"shifted"`` inwards there and counted in whole
            cells (what AnyUp computes with NATTEN; defined there only for whole ratios of pixels to cells and for
            axes of at least the window's cells, both of which this does without).
    """
    if ratio <= 0:
        return np.zeros(pixels, dtype=np.int64), np.full(pixels, cells)
    if window == "shifted":
        side = cells
        if ratio < 0.5:
            side = max(3, round(2 * ratio * cells))
            side = min(side + (side % 2 == 0), cells)
        own = (2 * np.arange(pixels) + 1) * cells // (2 * pixels)
        first = np.clip(own - side // 2, 0, cells - side)
        return first, first + side
    # In float32, as published: the answer depends on it where an end falls between two cells.
    centre = (np.arange(pixels, dtype=np.float32) + np.float32(0.5)) / np.float32(pixels)
    reach, count = np.float32(ratio), np.float32(cells)
    first = np.floor(np.clip(centre - reach, 0, 1) * count)
    stop = np.ceil(np.clip(centre + reach, 0, 1) * count)
    return first.astype(np.int64), stop.astype(np.int64)


class AxisBlocks(NamedTuple):
    """Pixels of one axis in tiles of ``tile`` neighbours, each served by a run of ``width`` cells.

    Plain numbers in nested lists, so that compilers can take them as constants.

    Attributes:
        pixels: of the axis.
        tile: pixels per tile; the last tile may reach past ``pixels``.
        width: cells per tile.
        cells: (tiles, width) cells of each tile.
        hidden: (tiles, tile, width), whether a pixel must not see a cell; ``None`` where all see all.
    """

    pixels: int
    tile: int
    width: int
    cells: list[list[int]]
    hidden: list[list[list[bool]]] | None


@functools.lru_cache(maxsize=1024)
def block_axis(cells: int, pixels: int, ratio: float, window: str, tile: int) -> AxisBlocks:
    """Group the runs of one axis; see :class:`AxisBlocks`."""
    first, stop = visible_runs(cells, pixels, ratio, window)
    tiles = -(-pixels // tile)
    index = np.minimum(np.arange(tiles * tile), pixels - 1).reshape(tiles, tile)
    first, stop = first[index], stop[index]
    width = int((stop.max(axis=1) - first.min(axis=1)).max())
    start = np.minimum(first.min(axis=1), cells - width)
    run = start[:, None] + np.arange(width)
    hidden = (run[:, None] < first[..., None]) | (run[:, None] >= stop[..., None])
    return AxisBlocks(pixels, tile, width, run.tolist(), hidden.tolist() if hidden.any() else None)


# Cost of a tile in arbitrary units: arithmetic grows with pixels x cells, gathering with cells alone, and every tile
# has a fixed price.
_GATHER_PER_CELL = 16.0
_FIXED_PER_TILE = 500.0
_TILES = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32)


@constant_for_compilers
def plan_blocks(
    grid: tuple[int, int], size: tuple[int, int], ratio: float, window: str, largest: int
) -> tuple[AxisBlocks, AxisBlocks]:
    """Blocks of both axes that make the attention cheapest, with at most ``largest`` pixels x cells a tile."""
    return _cheapest(grid, size, ratio, window, largest)


@functools.lru_cache(maxsize=256)
def _cheapest(
    grid: tuple[int, int], size: tuple[int, int], ratio: float, window: str, largest: int
) -> tuple[AxisBlocks, AxisBlocks]:
    options = [
        [block_axis(cells, pixels, ratio, window, tile) for tile in _TILES if tile <= pixels]
        for cells, pixels in zip(grid, size, strict=True)
    ]
    best, choice = float("inf"), (options[0][0], options[1][0])
    for y in options[0]:
        for x in options[1]:
            pixels, cells = y.tile * x.tile, y.width * x.width
            tiles = len(y.cells) * len(x.cells)
            cost = (pixels * cells + _GATHER_PER_CELL * cells + _FIXED_PER_TILE) * tiles
            if cost < best and pixels * cells <= largest:
                best, choice = cost, (y, x)
    return choice

"""Which low-resolution cells each output position attends to, one axis at a time, and how to tile them.

The published operator (NAF, arXiv 2511.18452, section 3.2; NATTEN's dilated neighborhood attention on keys
resized with ``nearest-exact``) is separable in its *windows*: the cells of pixel (y, x) are the product of
the cells of row y and the cells of column x. Everything here is therefore one-dimensional.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from naf_hub.parts.constants import constant_for_compilers


def source_cells(cells: int, size: int) -> np.ndarray:
    """Low-resolution cell under each of ``size`` output positions, as ``nearest-exact`` picks it: (size,).

    Rounded in float32 as PyTorch rounds on CUDA, and on CPUs for channels-last maps; the answer depends on
    it where a position's centre falls between two cells. (For contiguous maps on CPUs PyTorch rounds
    differently in 26 of the 14,560 pairs with ``cells`` <= 64 and ``size`` < 260, never at integer ratios.)
    """
    scale = np.float32(cells) / np.float32(size)
    positions = np.arange(size, dtype=np.float32) + np.float32(0.5)
    return np.minimum(np.floor(positions * scale).astype(np.int64), cells - 1)


def window_slots(cells: int, size: int, kernel_size: int) -> np.ndarray:
    """Cells in the window of each output position, in slot order: (size, k) with k <= ``kernel_size``.

    The window has stride ``size // cells`` on the output grid and is shifted inward at borders, never
    padded. Where fewer than ``kernel_size`` strides fit, it is clipped to as many as fit (the published
    operator refuses such sizes). At non-integer ratios one cell may fill several slots.

    Args:
        cells: low-resolution cells on this axis.
        size: output positions on this axis, at least ``cells``.
        kernel_size: slots wanted.
    """
    dilation = size // cells
    slots = min(kernel_size, size // dilation)
    position = np.arange(size)
    residue = position % dilation
    members = (size - residue + dilation - 1) // dilation  # positions that share this residue
    first = np.clip(position // dilation - slots // 2, 0, members - slots)
    index = (first[:, None] + np.arange(slots)) * dilation + residue[:, None]
    return source_cells(cells, size)[index]


class AxisTiles(NamedTuple):
    """Output positions of one axis in tiles of ``tile`` neighbours that share a run of ``union`` cells.

    Plain numbers in nested lists, so that compilers can take them as constants.

    Attributes:
        size: output positions.
        tile: positions per tile; the last tile may reach past ``size`` (those positions repeat the last one).
        union: cells per tile, covering the windows of all its positions.
        tiles: number of tiles.
        cells: (tiles, union) cells of each tile.
        slots: (tiles, tile, k) window of each position, counted from its tile's first cell.
        bias: (tiles, tile, union) logarithm of how many slots each cell fills, -inf for cells outside
            the window; ``None`` where every position attends to each cell of its tile exactly once.
        offset: (tiles, tile, union) signed distance from each cell's centre to each position, in cells.
    """

    size: int
    tile: int
    union: int
    tiles: int
    cells: list
    slots: list
    bias: list | None
    offset: list

    def cut(self, start: int, stop: int) -> tuple[AxisTiles, slice]:
        """The tiles from ``start`` to ``stop`` alone, and the cells that they need, which theirs count from."""
        part = slice(start, stop)
        first, last = min(run[0] for run in self.cells[part]), max(run[-1] for run in self.cells[part])
        cut = self._replace(
            size=min(stop * self.tile, self.size) - start * self.tile,
            tiles=stop - start,
            cells=[[cell - first for cell in run] for run in self.cells[part]],
            slots=self.slots[part],
            bias=None if self.bias is None else self.bias[part],
            offset=self.offset[part],
        )
        return cut, slice(first, last + 1)


def _grouped(cells: int, size: int, kernel_size: int, tile: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Windows per tile (tiles, tile, k), first cell per tile, and the width that covers every tile."""
    windows = window_slots(cells, size, kernel_size)
    tiles = -(-size // tile)
    windows = windows[np.minimum(np.arange(tiles * tile), size - 1)].reshape(tiles, tile, -1)
    low, high = windows.min(axis=(1, 2)), windows.max(axis=(1, 2))
    union = int((high - low).max()) + 1
    return windows, np.minimum(low, cells - union), union


@functools.lru_cache(maxsize=4096)
def union_width(cells: int, size: int, kernel_size: int, tile: int) -> int:
    """Cells that one tile of ``tile`` positions attends to."""
    return _grouped(cells, size, kernel_size, tile)[2]


@functools.lru_cache(maxsize=256)
def tile_axis(cells: int, size: int, kernel_size: int, tile: int) -> AxisTiles:
    """Group the windows of one axis; see :class:`AxisTiles`."""
    windows, starts, union = _grouped(cells, size, kernel_size, tile)
    slots = windows - starts[:, None, None]
    count = (slots[..., None] == np.arange(union)).sum(axis=2)
    position = np.minimum(np.arange(len(starts) * tile), size - 1).reshape(-1, tile, 1)
    run = starts[:, None] + np.arange(union)
    offset = (position + 0.5) * cells / size - 0.5 - run[:, None]
    with np.errstate(divide="ignore"):
        bias = None if (count == 1).all() else np.log(count).tolist()
    return AxisTiles(size, tile, union, len(starts), run.tolist(), slots.tolist(), bias, offset.tolist())


# Cost of one tile in arbitrary units, fitted on CPUs: arithmetic and softmax grow with pixels x cells, the
# gathering of keys and values with cells alone, and every small product has a fixed price.
_GATHER_PER_CELL = 20.0
_FIXED_PER_TILE = 800.0
_MASK_FACTOR = 1.15
_LARGEST_TILE = 32


@constant_for_compilers
def plan_tiles(
    h: int, w: int, height: int, width: int, kernel_size: int, largest_area: int
) -> tuple[AxisTiles, AxisTiles]:
    """Tiles of both axes that make the attention cheapest, with at most ``largest_area`` pixels x cells each."""
    tile_y, tile_x = _cheapest((h, w), (height, width), kernel_size, largest_area)
    return tile_axis(h, height, kernel_size, tile_y), tile_axis(w, width, kernel_size, tile_x)


@functools.lru_cache(maxsize=256)
def _cheapest(
    grid: tuple[int, int], size: tuple[int, int], kernel_size: int, largest_area: int
) -> tuple[int, int]:
    options: list[list[tuple[int, int, float]]] = []
    for cells, out in zip(grid, size, strict=True):
        ratio = out // cells
        sides = {t for t in (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32) if t <= out}
        sides |= {ratio * m for m in range(1, 33) if ratio * m <= min(out, _LARGEST_TILE)}
        axis = []
        for tile in sorted(sides):
            waste = -(-out // tile) * tile / out  # positions repeated to fill the last tile
            axis.append((tile, union_width(cells, out, kernel_size, tile), waste))
        options.append(axis)
    best, choice = float("inf"), (1, 1)
    for tile_y, union_y, waste_y in options[0]:
        for tile_x, union_x, waste_x in options[1]:
            pixels, cells = tile_y * tile_x, union_y * union_x
            exact = all(u == min(kernel_size, c) for u, c in zip((union_y, union_x), grid, strict=True))
            work = pixels * cells * (1.0 if exact else _MASK_FACTOR)
            cost = (work + _GATHER_PER_CELL * cells + _FIXED_PER_TILE) * waste_y * waste_x / pixels
            if cost < best and (pixels * cells <= largest_area or pixels == 1):
                best, choice = cost, (tile_y, tile_x)
    return choice

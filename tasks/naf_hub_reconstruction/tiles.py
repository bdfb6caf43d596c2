"""Features finer than a backbone's cells: those of an enlarged picture, taken tile by tile."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from naf_hub.interfaces import Features
from naf_hub.store import each_map, maps_in

MARGIN = 4
"""Cells around what a tile contributes, so that its borders are not seen."""


def tile_starts(cells: int, tile: int) -> list[int]:
    """First cells of tiles of ``tile`` cells that overlap by at least two margins and cover ``cells``.

    Raises:
        ValueError: the tile has no cell between its margins.
    """
    step = tile - 2 * MARGIN
    if step < 1:
        raise ValueError(f"tiles of {tile} cells are too small: they need more than {2 * MARGIN}")
    return [*range(0, cells - tile, step), max(0, cells - tile)]


@torch.no_grad()
def tiled_features(gather: Callable[[Tensor], Features], image: Tensor, patch: int, tile: int) -> Features:
    """What ``gather`` gives of tiles of ``image``, put together.

    Args:
        gather: features (1, C, n, n) of an image (1, 3, n * patch, n * patch); or several such maps by name.
        image: (1, 3, side, side), its side a multiple of ``patch``.
        patch: pixels per cell.
        tile: side of a tile in cells.

    Raises:
        ValueError: a map that is no grid of the tile's cells, or a tile smaller than its margins.
    """
    cells = image.shape[-1] // patch
    tile = min(tile, cells)
    starts = tile_starts(cells, tile) if tile < cells else [0]
    whole: Features | None = None
    for top in starts:
        for left in starts:
            y, x = top * patch, left * patch
            part = gather(image[..., y : y + tile * patch, x : x + tile * patch])
            if any(found.shape[-2:] != (tile, tile) for found in maps_in(part)):
                raise ValueError(
                    "an upsampler that wants maps of other grids has no tiled target; use --ratio 0"
                )
            if whole is None:
                whole = each_map(lambda found: found.new_empty(*found.shape[:2], cells, cells), part)
            # Later tiles overwrite the margin of earlier ones, so only inner borders lose theirs.
            rows, columns = (MARGIN if start else 0 for start in (top, left))
            for into, found in zip(maps_in(whole), maps_in(part), strict=True):
                into[..., top + rows : top + tile, left + columns : left + tile] = found[..., rows:, columns:]
    assert whole is not None
    return whole

"""Weighted averages over a window around every pixel, in tiles, as dense matrix products.

Neighbouring pixels share most of their windows. A tile of pixels is scored against, and averages over, the
union of its windows: more arithmetic than tap by tap, but in matrix products instead of passes over maps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from naf_hub.parts.pieces import WORKING_BYTES, Range, assemble, split
from naf_hub.parts.sizes import are_known, crop

from .borders import positions

TILE = 8

Blocks = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
Score = Callable[[Tensor, Tensor], Tensor]


def gaussian(radius: int, sigma: float, like: Tensor) -> Tensor:
    """(2r + 1, 2r + 1) unnormalised Gaussian, ``sigma`` in pixels, dtype and device of ``like``."""
    offset = torch.arange(-radius, radius + 1, dtype=like.dtype, device=like.device)
    return torch.exp(-(offset[:, None].square() + offset.square()) / (2 * sigma**2))


def window_average(
    blocks: Blocks,
    score: Score,
    spatial: Tensor,
    shape: tuple[int, int, int, int],
    key_width: int,
    features: Tensor,
    inputs: Sequence[Tensor] = (),
) -> Tensor:
    """``out_p = sum_q w_pq v_q`` over the window around p, with reflected borders.

    ``w = r s / max(sum r s, 1e-7)``: r the softmax of the scores over the window, s the ``spatial`` factors.

    Args:
        blocks: ``blocks(rows, cols)`` gives keys (B, K, n, m) and values (B, C, n, m) at those pixels (indices on
            the CPU).
        score: ``score(queries (N, P, K), keys (N, K, Q))`` gives (N, P, Q).
        spatial: (2r + 1, 2r + 1) factors of the window.
        shape: (B, C, H, W) of the result.
        key_width: K, to size the blocks.
        features: gives dtype and device of the result.
        inputs: further tensors a gradient may be wanted for.
    """
    batch, channels, height, width = shape
    radius = spatial.shape[0] // 2
    known = are_known(batch, height, width)
    tile = (min(TILE, height), min(TILE, width)) if known else (TILE, TILE)
    window = (tile[0] + 2 * radius, tile[1] + 2 * radius)
    inside, factor = _tile_taps(spatial, tile, window)
    area, reach = tile[0] * tile[1], window[0] * window[1]

    def piece(_: Range, y: Range, x: Range) -> Tensor:
        # ONNX divides integers toward zero: no negative ones here.
        down, right = (y[1] - y[0] + tile[0] - 1) // tile[0], (x[1] - x[0] + tile[1] - 1) // tile[1]
        rows = positions(y[0] - radius, y[0] + down * tile[0] + radius, height, radius)
        cols = positions(x[0] - radius, x[0] + right * tile[1] + radius, width, radius)
        keys, values = blocks(rows, cols)
        centre = keys[:, :, radius : radius + down * tile[0], radius : radius + right * tile[1]]
        queries = _tiles(centre, tile, tile).transpose(1, 2)
        weight = score(queries, _tiles(keys, window, tile)).masked_fill(~inside, -math.inf)
        weight = torch.softmax(weight, -1) * factor
        weight = weight / weight.sum(-1, keepdim=True).clamp_min(1e-7)
        out = _tiles(values, window, tile) @ weight.transpose(1, 2)
        out = out.reshape(batch, down, right, channels, *tile).permute(0, 3, 1, 4, 2, 5)
        out = out.reshape(batch, channels, down * tile[0], right * tile[1])
        return crop(out, (y[1] - y[0], x[1] - x[0]))

    if not known:
        return assemble(piece, shape, features, (spatial, *inputs))
    values_per_tile = batch * ((key_width + channels) * (2 * reach + area) + 3 * area * reach)
    tiles = max(1, WORKING_BYTES // (values_per_tile * spatial.dtype.itemsize))
    across = math.ceil(width / tile[1])
    cols = split(width, min(tiles, across) * tile[1])
    rows = split(height, max(1, tiles // across) * tile[0])
    return assemble(piece, shape, features, (spatial, *inputs), rows=rows, cols=cols)


def _tiles(x: Tensor, window: tuple[int, int], step: tuple[int, int]) -> Tensor:
    """(B, K, n, m) -> (B * tiles, K, window pixels)."""
    x = x.unfold(2, window[0], step[0]).unfold(3, window[1], step[1])
    return x.permute(0, 2, 3, 1, 4, 5).reshape(-1, x.shape[1], window[0] * window[1])


def _tile_taps(spatial: Tensor, tile: tuple[int, int], window: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Which pixels of a tile's window lie in each pixel's own window, and their spatial factors."""
    side = spatial.shape[0]
    device = spatial.device
    dy = torch.arange(window[0], device=device) - torch.arange(tile[0], device=device)[:, None]
    dx = torch.arange(window[1], device=device) - torch.arange(tile[1], device=device)[:, None]
    dy, dx = dy[:, None, :, None], dx[None, :, None, :]
    inside = (dy >= 0) & (dy < side) & (dx >= 0) & (dx < side)
    factor = spatial[dy.clamp(0, side - 1), dx.clamp(0, side - 1)] * inside
    shape = (tile[0] * tile[1], window[0] * window[1])
    return inside.reshape(shape), factor.reshape(shape)

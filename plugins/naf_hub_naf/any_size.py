"""The attention of :mod:`.attention` for a traced graph that leaves the sizes unknown.

All tiles have one size here, for a choice among sizes would pin them, and one width bounds the cells of every tile.
The tables of :class:`~naf_hub_naf.windows.AxisTiles` are tensors that the graph computes, and rows and columns are
taken by index, so that nothing is padded or cut, which would compare sizes. Axes are kept apart as far as possible:
torch.compile repeats the arithmetic of every index, and of a logarithm, for every number that it leads to.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from naf_hub.parts.sizes import larger, number, smaller

from .attention import split_heads
from .spatial import DistanceWeight, decay

# Output positions of a tile on each axis.
TILE = 16


class AxisTables(NamedTuple):
    """Tables of one axis, cut into tiles of :data:`TILE` neighbours.

    Attributes:
        positions: (tiles, tile); the last one fills the last tile.
        cells: (tiles, union) that the windows of a tile lie in.
        bias: (tiles, tile, union) logarithm of how many slots each cell fills, -inf for none.
        offset: (tiles, tile, union) signed distance from each cell's centre to each position, in cells.
    """

    positions: Tensor
    cells: Tensor
    bias: Tensor
    offset: Tensor


def attend_at_any_size(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    heads: int,
    kernel_size: int,
    weight: DistanceWeight | None = None,
    locality: float | None = None,
) -> Tensor:
    """:meth:`CrossScaleAttention.output <naf_hub_naf.attention.CrossScaleAttention.output>` of the same operands."""
    batch, height, width, channels = queries.shape
    dtype, key_dim = values.dtype, channels // heads
    values, kept = split_heads(values.to(queries.dtype), heads)
    y = axis_tables(keys.shape[1], height, kernel_size, queries)
    x = axis_tables(keys.shape[2], width, kernel_size, queries)
    tiles = y.cells.shape[0], x.cells.shape[0]

    def take(maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """Maps (B, H, W, heads * n) at (tiles, m) places on each axis: (B, tiles * tiles, heads, m * m, n)."""
        taken = maps.index_select(1, rows.flatten()).index_select(2, columns.flatten())
        taken = taken.reshape(batch, *rows.shape, *columns.shape, heads, maps.shape[-1] // heads)
        return taken.permute(0, 1, 3, 5, 2, 4, 6).flatten(4, 5).flatten(1, 2)

    scores = take(queries, y.positions, x.positions) @ take(keys * key_dim**-0.5, y.cells, x.cells).mT
    if weight is not None:
        scores = scores * weight(y.offset, x.offset).flatten(0, 1)[:, None]
    along_y, along_x = (
        axis.bias if locality is None else axis.bias + decay(axis.offset, locality) for axis in (y, x)
    )
    bias = along_y[:, None, None, :, None, :, None] + along_x[:, None, None, :, None]
    scores = scores.reshape(batch, *tiles, heads, TILE, TILE, y.cells.shape[1], x.cells.shape[1]) + bias
    weights = scores.flatten(6).flatten(4, 5).flatten(1, 2).softmax(-1)
    mixed = weights @ take(values.flatten(3), y.cells, x.cells)
    # Back to rows and columns, without those that fill the last tiles.
    mixed = mixed.reshape(batch, *tiles, heads, TILE, TILE, values.shape[-1]).permute(0, 1, 4, 2, 5, 3, 6)
    mixed = mixed.reshape(batch, tiles[0] * TILE, tiles[1] * TILE, heads * values.shape[-1])
    for axis, size in ((1, height), (2, width)):
        mixed = mixed.index_select(axis, torch.arange(size, device=queries.device))
    return (mixed if kept is None else mixed.index_select(-1, kept)).to(dtype)


def axis_tables(cells: int, size: int, kernel_size: int, like: Tensor, tight: bool = False) -> AxisTables:
    """The tables of ``size`` positions over ``cells`` in the dtype and on the device of ``like``; on request with no
    cell too many where tiles are whole cells or cells whole tiles, at the price of a longer formula in the graph."""
    device, last = like.device, number(size - 1, like.device)
    tiles = larger(2, (size + TILE - 1) // TILE)  # a graph would take one tile for a size of its own
    positions = torch.minimum(torch.arange(tiles * TILE, device=device), last).reshape(tiles, TILE)
    # Positions of a tile lie at most this many cells apart; that one more is enough for the windows, tests show.
    uneven = size % cells + (TILE * cells % size) * (size % (TILE * cells)) if tight else 1
    union = smaller(cells, (TILE - 1) * cells // size + kernel_size + smaller(1, uneven))
    source, inside = _window(cells, size, kernel_size, positions)
    start = torch.minimum(source.amin((1, 2)), number(cells - union, device))
    run = start[:, None] + torch.arange(union, device=device)
    met = (source[..., None] == run[:, None, None]) & inside[..., None]
    ratio = number(cells, device).double() / number(size, device).double()
    offset = ((positions + 0.5) * ratio - 0.5)[..., None] - run[:, None]
    logarithms = like.new_tensor([-math.inf, *(math.log(slots) for slots in range(1, kernel_size + 1))])
    return AxisTables(positions, run, logarithms[met.sum(2)], offset.to(like.dtype))


def _window(cells: int, size: int, kernel_size: int, position: Tensor) -> tuple[Tensor, Tensor]:
    """``window_slots`` of positions (...) as a tensor (..., kernel_size), and which of the slots exist."""
    device = position.device
    sides, last = number(size, device), number(cells - 1, device)
    stride = sides // (last + 1)
    slot = torch.arange(kernel_size, device=device)
    residue = position % stride
    members = (sides - residue + stride - 1) // stride
    count = (sides // stride).clamp(max=kernel_size)
    first = torch.minimum((position // stride - count // 2).clamp(min=0), members - count)
    index = (first[..., None] + slot) * stride + residue[..., None]
    scale = (last + 1).float() / sides.float()
    source = torch.minimum(((index.float() + 0.5) * scale).floor().long(), last)
    return source, (slot < count).expand_as(source)

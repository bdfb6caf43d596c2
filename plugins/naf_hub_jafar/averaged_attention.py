"""Attention whose heads are averaged before they meet the values: JAFAR's to all cells (arXiv 2506.11136, section 3.2),
AnyUp's within windows (arXiv 2510.12764, section 3.3)."""

from __future__ import annotations

import math
import operator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.pieces import Range, assemble, split
from naf_hub.parts.precision import without_autocast, working_dtype
from naf_hub.parts.sizes import are_known

from .open_attention import attend_at_any_size
from .visible_cells import AxisBlocks, plan_blocks


class RMSGain(nn.Module):
    """``x / sqrt(mean(x^2) + eps) * weight`` over the last axis, eps the machine epsilon of the dtype."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + torch.finfo(x.dtype).eps)
        return x * scale * self.weight.to(x.dtype)


class CrossAttention(nn.Module):
    """Parameters of the attention, under the names of the published state.

    Its module is torch's own, of which only the projections of queries and keys act: the values are the features.

    Args:
        dim: channels D of queries and keys.
        heads: divides ``dim``.
        channels: of the features, where the state holds what was made for values and is never used; ``None``: none.
    """

    def __init__(self, dim: int, heads: int, channels: int | None = None) -> None:
        super().__init__()
        self.norm_q = RMSGain(dim)
        self.norm_k = RMSGain(dim)
        if channels is not None:
            self.norm_v = RMSGain(channels)
        self.attention = nn.MultiheadAttention(dim, heads, vdim=channels)

    def _projected(self, x: Tensor, part: int) -> Tensor:
        """(..., D) by the projection of queries (0) or keys (1)."""
        fused = self.attention.in_proj_weight  # None where values have another width: there are three then
        apart = (self.attention.q_proj_weight, self.attention.k_proj_weight)
        weight = apart[part] if fused is None else fused.chunk(3)[part]
        return F.linear(x, weight.to(x.dtype), self.attention.in_proj_bias.chunk(3)[part].to(x.dtype))

    def queries(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), heads side by side."""
        return self._projected(self.norm_q(x), 0)

    def keys(self, x: Tensor) -> Tensor:
        """(..., D) -> (..., D), heads side by side, scaled for the product with queries."""
        return self._projected(self.norm_k(x), 1) / math.sqrt(self.attention.head_dim)


class CrossDecoder(nn.Module):
    """A 3x3 convolution of the queries, then attention: each pixel becomes a mean of the features it may see.

    Args:
        dim: channels of queries and keys.
        heads: divides ``dim``.
        channels: see :class:`CrossAttention`.
    """

    def __init__(self, dim: int, heads: int, channels: int | None = None) -> None:
        super().__init__()
        self.cross_attn = CrossAttention(dim, heads, channels)
        self.conv2d = nn.Conv2d(dim, dim, 3, padding=1, bias=False)

    def forward(
        self,
        queries: Tensor,
        keys: Tensor,
        features: Tensor,
        *,
        ratio: float = 0.0,
        window: str = "cropped",
        memory: int,
    ) -> Tensor:
        """Mean of ``features`` for each query.

        Args:
            queries: (B, D, H, W).
            keys: (B, D, h, w).
            features: (B, C, h, w).
            ratio, window: see :func:`~naf_hub_jafar.visible_cells.visible_runs`; by default all cells are seen.
            memory: bytes to keep to beside operands and result, as far as single tiles allow; where all cells are
                seen, another map of queries comes on top.

        Returns:
            (B, C, H, W) in the dtype of ``features``, computed in float32 or better.
        """
        if not are_known(*queries.shape, *features.shape):
            return attend_at_any_size(queries, keys, features, self, ratio, window)
        if ratio <= 0:
            return _attend_everywhere(queries, keys, features, self, memory)
        return _attend(queries, keys, features, self, ratio, window, memory)


@without_autocast
def _attend_everywhere(
    queries: Tensor, keys: Tensor, features: Tensor, decoder: CrossDecoder, memory: int
) -> Tensor:
    dtype = working_dtype(queries.dtype)
    attention, heads = decoder.cross_attn, decoder.cross_attn.attention.num_heads
    (batch, dim, height, width), (channels, cells) = queries.shape, features.flatten(2).shape[1:]
    # Whole: strips would compute the rows at their seams twice.
    queries = F.conv2d(queries.to(dtype), decoder.conv2d.weight.to(dtype), padding=1)
    key_columns = attention.keys(keys.to(dtype).flatten(2).mT).unflatten(-1, (heads, -1)).permute(0, 2, 3, 1)
    values = features.to(dtype).flatten(2)

    def piece(_: Range, rows: Range, cols: Range) -> Tensor:
        part = queries[:, :, slice(*rows), slice(*cols)]
        asked = attention.queries(part.flatten(2).mT).unflatten(-1, (heads, -1)).transpose(1, 2)
        weights = (asked @ key_columns).softmax(-1).mean(1)
        return (values @ weights.mT).unflatten(-1, part.shape[2:])

    pixel = batch * (2 * heads * cells + cells + 3 * dim + channels) * dtype.itemsize
    pixels = max(1, memory // pixel)
    return assemble(
        piece,
        (batch, channels, height, width),
        features,
        (queries, keys, *decoder.parameters()),
        rows=split(height, pixels // width),
        cols=split(width, pixels),
    )


class _Axis:
    """The blocks of one axis as tensors."""

    def __init__(self, blocks: AxisBlocks, like: Tensor) -> None:
        self.blocks = blocks
        self.cells = torch.tensor(blocks.cells, device=like.device)
        hidden = blocks.hidden
        self.bias = None
        if hidden is not None:
            hides = torch.tensor(hidden, device=like.device)
            self.bias = torch.zeros(hides.shape, dtype=like.dtype, device=like.device).masked_fill(
                hides, -math.inf
            )

    def ranges(self, tiles: int) -> list[Range]:
        """Pixel ranges of ``tiles`` tiles each."""
        return split(self.blocks.pixels, max(1, tiles) * self.blocks.tile)

    def tiles(self, pixels: Range) -> slice:
        """The tiles of a pixel range that starts at one."""
        return slice(pixels[0] // self.blocks.tile, -(-pixels[1] // self.blocks.tile))


@without_autocast
def _attend(
    queries: Tensor,
    keys: Tensor,
    features: Tensor,
    decoder: CrossDecoder,
    ratio: float,
    window: str,
    memory: int,
) -> Tensor:
    dtype = working_dtype(queries.dtype)
    attention, conv = decoder.cross_attn, decoder.conv2d.weight.to(dtype)
    heads = attention.attention.num_heads
    (batch, dim, height, width), (channels, h, w) = queries.shape, features.shape[1:]
    # `index` makes torch.compile take the sizes as constants, which tables must be made from.
    grid, size = (operator.index(h), operator.index(w)), (operator.index(height), operator.index(width))
    largest = memory // (3 * batch * heads * dtype.itemsize)
    y, x = (
        _Axis(b, keys.new_empty((), dtype=dtype)) for b in plan_blocks(grid, size, ratio, window, largest)
    )
    area, reach = y.blocks.tile * x.blocks.tile, y.blocks.width * x.blocks.width
    key_rows = attention.keys(keys.to(dtype).permute(0, 2, 3, 1)).flatten(1, 2)
    value_rows = features.to(dtype).permute(0, 2, 3, 1).flatten(1, 2)

    def piece(_: Range, rows: Range, cols: Range) -> Tensor:
        down, across = y.tiles(rows), x.tiles(cols)
        ny, nx = down.stop - down.start, across.stop - across.start
        asked = attention.queries(_convolved(queries, conv, rows, cols).permute(0, 2, 3, 1))
        spare = (nx * x.blocks.tile - asked.shape[2], ny * y.blocks.tile - asked.shape[1])
        asked = F.pad(asked, (0, 0, 0, spare[0], 0, spare[1]))
        asked = asked.reshape(batch, ny, y.blocks.tile, nx, x.blocks.tile, heads, -1)
        asked = asked.permute(0, 1, 3, 5, 2, 4, 6).reshape(batch * ny * nx, heads, area, -1)
        index = (y.cells[down][:, None, :, None] * w + x.cells[across][None, :, None, :]).flatten()
        seen = key_rows[:, index].reshape(batch * ny * nx, reach, heads, -1).permute(0, 2, 3, 1)
        scores = asked @ seen
        if (hidden := _hidden(y, x, down, across)) is not None:
            scores = (scores.unflatten(0, (batch, ny * nx)) + hidden).flatten(0, 1)
        weights = scores.softmax(-1).mean(1)
        values = value_rows[:, index].reshape(batch * ny * nx, reach, channels)
        mixed = values.mT @ weights.mT
        mixed = mixed.reshape(batch, ny, nx, channels, y.blocks.tile, x.blocks.tile).permute(0, 3, 1, 4, 2, 5)
        mixed = mixed.reshape(batch, channels, ny * y.blocks.tile, nx * x.blocks.tile)
        return mixed[..., : rows[1] - rows[0], : cols[1] - cols[0]]

    numbers = batch * (area * (2 * heads * reach + 3 * dim + 2 * channels) + reach * (2 * dim + channels))
    count = max(1, memory // (numbers * dtype.itemsize))
    return assemble(
        piece,
        (batch, channels, height, width),
        features,
        (queries, keys, *decoder.parameters()),
        rows=y.ranges(count // len(x.blocks.cells)),
        cols=x.ranges(min(count, len(x.blocks.cells))),
    )


def _convolved(queries: Tensor, weight: Tensor, rows: Range, cols: Range) -> Tensor:
    """Some rows and columns of the queries' convolution, zeros beyond the borders."""
    height, width = queries.shape[-2:]
    top, left = max(rows[0] - 1, 0), max(cols[0] - 1, 0)
    bottom, right = min(rows[1] + 1, height), min(cols[1] + 1, width)
    beyond = (left - cols[0] + 1, cols[1] + 1 - right, top - rows[0] + 1, rows[1] + 1 - bottom)
    part = F.pad(queries[:, :, top:bottom, left:right].to(weight.dtype), beyond)
    return F.conv2d(part.contiguous(memory_format=torch.channels_last), weight)


def _hidden(y: _Axis, x: _Axis, down: slice, across: slice) -> Tensor | None:
    """(tiles, 1, pixels, cells) to add to scores: -inf where a cell is hidden; ``None`` where none is."""
    if y.bias is None and x.bias is None:
        return None
    rows = None if y.bias is None else y.bias[down][:, None, :, None, :, None]
    columns = None if x.bias is None else x.bias[across][None, :, None, :, None, :]
    total = rows if columns is None else columns if rows is None else rows + columns
    assert total is not None
    shape = (
        down.stop - down.start, across.stop - across.start,
        y.blocks.tile, x.blocks.tile, y.blocks.width, x.blocks.width,
    )  # fmt: skip
    return total.expand(shape).flatten(4).flatten(2, 3).flatten(0, 1)[:, None]

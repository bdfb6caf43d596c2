"""LoftUp's blocks: pixels ask cells (arXiv 2504.14032, section 3.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn


class Cells(NamedTuple):
    """What pixels may ask in one block, by head: (B, heads, cells, E / heads) each."""

    keys: Tensor
    values: Tensor


class CrossAttention(nn.Module):
    """Multi-head attention of pixels to cells, beside an identity; both sides are layer-normed first.

    Args:
        dim: channels E of both.
        heads: divides ``dim``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm_q = nn.LayerNorm(dim)
        self.norm_kv = nn.LayerNorm(dim)
        self.attention = nn.MultiheadAttention(dim, heads, batch_first=True)

    def _projected(self, x: Tensor, part: int) -> Tensor:
        """(B, n, E) by one of the projections of queries, keys and values, by head: (B, heads, n, E / heads)."""
        weight, bias = self.attention.in_proj_weight, self.attention.in_proj_bias
        projected = F.linear(x, weight.chunk(3)[part], bias.chunk(3)[part])
        return projected.unflatten(-1, (self.attention.num_heads, -1)).transpose(1, 2)

    def cells(self, tokens: Tensor) -> Cells:
        """Keys and values of (B, cells, E)."""
        normed = self.norm_kv(tokens)
        return Cells(self._projected(normed, 1), self._projected(normed, 2))

    def forward(self, pixels: Tensor, cells: Cells) -> Tensor:
        """Pixels (B, n, E) after they asked."""
        found = F.scaled_dot_product_attention(self._projected(self.norm_q(pixels), 0), *cells)
        return pixels + self.attention.out_proj(found.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """LayerNorm and two linear maps with a GELU between, beside an identity.

    Args:
        dim: channels.
        hidden: channels between.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        # The published state counts a dropout of 0 between.
        self.net = nn.Sequential(
            nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Identity(), nn.Linear(hidden, dim)
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.net(x)


class CrossTransformer(nn.Module):
    """Blocks of attention and linear maps, then a LayerNorm; every block asks the same cells.

    Args:
        dim: channels E of pixels and cells.
        hidden: channels within the linear maps.
        heads: divides ``dim``.
        layers: blocks.
    """

    def __init__(self, dim: int, hidden: int, heads: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList((CrossAttention(dim, heads), FeedForward(dim, hidden))) for _ in range(layers)
        )
        self.norm = nn.LayerNorm(dim)

    def cells(self, tokens: Tensor) -> list[Cells]:
        """What each block asks of (B, cells, E)."""
        return [attention.cells(tokens) for attention, _ in self.layers]  # pyright: ignore

    def forward(self, pixels: Tensor, cells: list[Cells]) -> Tensor:
        """Pixels (B, n, E) -> (B, n, E)."""
        for (attend, transform), seen in zip(self.layers, cells, strict=True):  # pyright: ignore
            pixels = transform(attend(pixels, seen))
        return self.norm(pixels)

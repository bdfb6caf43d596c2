"""One of the blocks that refine queries, each by one hidden layer of the backbone (ViT-Up, arXiv 2606.14024)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .positions import BANDS, rotary_phases, rotate

WAVES = 4 * BANDS + 2


class Places(NamedTuple):
    """Where queries (B, N) are on the grid of the hidden layers.

    Attributes:
        phases: cosines and sines (B, 1, N, head_dim / 2) of the rotation by position.
        cell: index (B, N) of the cell that a query lies in.
        waves: (B, N, 66), its offset from the centre of that cell.
    """

    phases: tuple[Tensor, Tensor]
    cell: Tensor
    waves: Tensor


class Layer(NamedTuple):
    """What a block reads of its hidden layer.

    Attributes:
        keys, values: (B, heads, h * w, head_dim).
        tokens: (B, h * w, C).
    """

    keys: Tensor
    values: Tensor
    tokens: Tensor


class CrossAttention(nn.Module):
    """Queries to all cells of a hidden layer, turned by their positions."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (nn.Linear(dim, dim) for _ in range(4))

    def split(self, x: Tensor) -> Tensor:
        """(B, N, C) -> (B, heads, N, head_dim)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, x: Tensor, phases: tuple[Tensor, Tensor], layer: Layer) -> Tensor:
        queries = rotate(self.split(self.q_proj(x)), phases)
        keys, values = (t.to(queries.dtype) for t in (layer.keys, layer.values))
        mixed = F.scaled_dot_product_attention(queries, keys, values)
        return self.out_proj(mixed.transpose(1, 2).flatten(-2))


class SubTokenModulation(nn.Module):
    """What a token says at an offset from its centre: scaled and shifted by a network of the offset ("FeatX")."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm_input = nn.LayerNorm(dim)
        self.gamma_beta_mlp = nn.Sequential(nn.Linear(WAVES, dim), nn.GELU(), nn.Linear(dim, 2 * dim))
        self.post_mlp = nn.Sequential(nn.LayerNorm(dim), *network(dim, 4 * dim))
        for parameter in self.gamma_beta_mlp[2].parameters():
            nn.init.zeros_(parameter)

    def forward(self, token: Tensor, waves: Tensor) -> Tensor:
        gain, shift = self.gamma_beta_mlp(waves.to(token.dtype)).chunk(2, -1)
        return self.post_mlp((1 + gain) * self.norm_input(token) + shift)


class QueryBlock(nn.Module):
    """Queries (B, N, C) to queries, by one hidden layer.

    Args:
        dim: channels C.
        heads: divides ``dim``; a head has a multiple of 4 channels.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.transition_mlp = nn.Sequential(nn.LayerNorm(dim), *network(dim, 2 * dim))
        self.norm_q_global = nn.LayerNorm(dim)
        self.norm_h_global = nn.LayerNorm(dim)
        self.cross_attention = CrossAttention(dim, heads)
        self.featx = SubTokenModulation(dim)
        # Published under this name, but it norms what the modulation puts out.
        self.norm_h_local = nn.LayerNorm(dim)
        self.norm_post = nn.LayerNorm(dim)
        self.mlp = network(dim, 4 * dim)

    def read(self, tokens: Tensor, centres: Tensor) -> Layer:
        """What all queries share.

        Args:
            tokens: the hidden layer (B, h * w, C).
            centres: of its cells, (h * w, 2), as (x, y) in cells.
        """
        attention, normed = self.cross_attention, self.norm_h_global(tokens)
        keys = attention.split(attention.k_proj(normed))
        keys = rotate(keys, rotary_phases(centres, keys.shape[-1]))
        return Layer(keys, attention.split(attention.v_proj(normed)), tokens)

    def forward(self, queries: Tensor, places: Places, layer: Layer) -> Tensor:
        queries = queries + self.transition_mlp(queries)
        queries = queries + self.cross_attention(self.norm_q_global(queries), places.phases, layer)
        index = places.cell[..., None].expand(-1, -1, layer.tokens.shape[-1])
        token = torch.gather(layer.tokens, 1, index)
        queries = queries + self.norm_h_local(self.featx(token, places.waves))
        return queries + self.mlp(self.norm_post(queries))


def network(dim: int, hidden: int) -> nn.Sequential:
    """Two layers, as in a transformer."""
    return nn.Sequential(nn.Linear(dim, hidden), nn.GELU(), nn.Linear(hidden, dim))

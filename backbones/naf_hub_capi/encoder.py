"""CAPI's encoder. Modules are named as in the published files."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .rope import Rope, token_coordinates, turn

PATCH = 14
REGISTERS = 16
EPSILON = 1e-5


class Attention(nn.Module):
    """Self-attention with rotary positions and no biases."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.q_proj = nn.Linear(dim, dim, bias=False)
        self.k_proj = nn.Linear(dim, dim, bias=False)
        self.v_proj = nn.Linear(dim, dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.rope = Rope(dim // num_heads)

    def forward(self, x: Tensor, coordinates: Tensor) -> Tensor:
        """(B, N, C) tokens at coordinates (N, 2)."""
        q, k, v = (
            layer(x).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        angles = self.rope(coordinates)
        x = F.scaled_dot_product_attention(turn(q, *angles), turn(k, *angles), v)
        return self.proj(x.transpose(1, 2).flatten(2))


class FeedForward(nn.Module):
    """Two layers, four times as wide in between, no biases."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim, bias=False)
        self.fc2 = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class Residual(nn.Module):
    """``x + fn(norm(x))``."""

    def __init__(self, dim: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(dim, eps=EPSILON)
        self.fn = fn

    def forward(self, x: Tensor, *context: Tensor) -> Tensor:
        return x + self.fn(self.norm(x), *context)


class Block(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.residual1 = Residual(dim, Attention(dim, num_heads))
        self.residual2 = Residual(dim, FeedForward(dim))

    def forward(self, x: Tensor, coordinates: Tensor) -> Tensor:
        return self.residual2(self.residual1(x, coordinates))


class Blocks(nn.Module):
    """The level at which the published files say ``encoder.blocks``."""

    def __init__(self, dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, num_heads) for _ in range(depth))

    def forward(self, x: Tensor, coordinates: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, coordinates)
        return x


class Encoder(nn.Module):
    """A vision transformer with registers, rotary positions and no class token.

    The published model's decoder serves its global representation only and has no part here.

    Args:
        dim: channels C.
        depth: blocks.
        num_heads: attention heads; ``dim / num_heads`` must be a multiple of 4.
    """

    def __init__(self, dim: int, depth: int, num_heads: int) -> None:
        super().__init__()
        self.dim = dim
        self.registers = nn.Parameter(torch.randn(1, REGISTERS, dim) * 0.02)
        self.patch_embed = nn.Conv2d(3, dim, PATCH, stride=PATCH)
        self.encoder = Blocks(dim, depth, num_heads)

    def forward(self, image: Tensor) -> Tensor:
        """(B, 16 + h * w, C) normed tokens of a normalised image, registers first."""
        x = self.patch_embed(image)
        # The authors compute coordinates in the dtype of the tokens; in half precision these would be off by
        # a good part of a period, so they are kept in single precision at least.
        precise = x.new_empty(0, dtype=torch.promote_types(self.registers.dtype, torch.float32))
        coordinates = token_coordinates(REGISTERS, (x.shape[-2], x.shape[-1]), precise)
        x = torch.cat([self.registers.expand(x.shape[0], -1, -1), x.flatten(2).transpose(1, 2)], dim=1)
        return self.final_norm(self.encoder(x, coordinates))

    def final_norm(self, tokens: Tensor) -> Tensor:
        """The norm without weights that ends the encoder, of tokens (B, N, C)."""
        return F.rms_norm(tokens, (self.dim,), eps=EPSILON)

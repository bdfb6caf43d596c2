"""The transformer block that fuses FeatSharp's inputs: attention in a window, then SwiGLU (arXiv 2502.16025)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.pieces import Range, assemble, split

HEADS = 16
# Sides of the squares of positions that are computed at once, the largest that fits first.
SIDES = (32, 16, 8, 4, 2, 1)


class WindowAttention(nn.Module):
    """Projections of 16 heads, each stored in a power of two of channels, of which only its own count in the result.

    Even heads see rows as further away by a slope of their own, odd heads columns.

    Args:
        width: channels W, a multiple of 16.
        window: side of the square that each position sees.
    """

    def __init__(self, width: int, window: int) -> None:
        super().__init__()
        self.size = width // HEADS
        self.stored = 1 << (self.size - 1).bit_length()
        self.reach = window // 2
        self.qkv = nn.Linear(width, 3 * HEADS * self.stored, bias=False)
        self.proj = nn.Linear(width, width)

    def bias(self, queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
        """(heads, queries, keys) of all rows x columns, minus infinity outside the window."""
        down, across = ((q[:, None] - k).abs().to(dtype) for q, k in zip(queries, keys, strict=True))
        shape = (len(queries[0]), len(queries[1]), len(keys[0]), len(keys[1]))
        down, across = down[:, None, :, None].expand(shape), across[None, :, None, :].expand(shape)
        hidden = ((down > self.reach) | (across > self.reach)).flatten(2).flatten(0, 1)
        slope = 2.0 ** -torch.arange(1, HEADS // 2 + 1, dtype=dtype, device=down.device)
        distance = torch.stack((down, across)).flatten(3).flatten(1, 2)
        return -(slope[:, None, None, None] * distance).flatten(0, 1).masked_fill(hidden, torch.inf)

    def forward(self, qkv: Tensor, rows: Range, cols: Range) -> Tensor:
        """Attention of some positions, (B, n, m, W), given the projections (B, h, w, 3 * 16 * stored) of all."""
        (h, w), device = qkv.shape[1:3], qkv.device
        near = [
            (max(0, start - self.reach), min(size, stop + self.reach))
            for (start, stop), size in zip((rows, cols), (h, w), strict=True)
        ]
        q = qkv[:, slice(*rows), slice(*cols)].flatten(1, 2).unflatten(-1, (3, HEADS, -1))[:, :, 0]
        k, v = (
            qkv[:, slice(*near[0]), slice(*near[1])]
            .flatten(1, 2)
            .unflatten(-1, (3, HEADS, -1))[:, :, 1:]
            .unbind(2)
        )
        asked, seen = (
            (torch.arange(*a, device=device), torch.arange(*b, device=device))
            for a, b in ((rows, cols), near)
        )
        found = F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in (q, k, v)),
            attn_mask=self.bias(asked, seen, qkv.dtype),
            scale=self.size**-0.5,
        )
        found = found[..., : self.size].transpose(1, 2).flatten(2)
        return self.proj(found).unflatten(1, (rows[1] - rows[0], cols[1] - cols[0]))


class SwiGLU(nn.Module):
    """``W3 (silu(a) b)`` of the halves a, b of ``W12 x``, hidden as wide as two thirds of four times the input."""

    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        hidden = 8 * ((8 * width // 3 + 7) // 8)
        self.w12 = nn.Linear(width, 2 * hidden)
        self.w3 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        gate, value = self.w12(x).chunk(2, dim=-1)
        return self.w3(F.silu(gate) * value)


class LayerScale(nn.Module):
    """A learned factor for each channel, small at first."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.full((width,), 1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return self.gamma * x


class FusionBlock(nn.Module):
    """Attention and SwiGLU, of which the residual keeps the first C channels: those of the first input.

    Args:
        width: channels W of all inputs together.
        channels: C.
        layer_norm: normalise before both.
        window: side in positions.
    """

    def __init__(self, width: int, channels: int, layer_norm: bool, window: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm1, self.norm2 = (nn.LayerNorm(width) if layer_norm else nn.Identity() for _ in range(2))
        self.attn = WindowAttention(width, window)
        self.ls1 = LayerScale(width)
        self.mlp = SwiGLU(width, channels)
        self.ls2 = LayerScale(channels)

    def forward(self, maps: Tensor, memory: int) -> Tensor:
        """(B, W, h, w) -> (B, C, h, w), within ``memory`` bytes beside the projections of the whole map."""
        tokens = maps.movedim(1, -1).to(self.attn.qkv.weight.dtype)
        batch, h, w, width = tokens.shape
        qkv = self.attn.qkv(self.norm1(tokens))

        def piece(_: Range, rows: Range, cols: Range) -> Tensor:
            x = tokens[:, slice(*rows), slice(*cols)]
            x = x + self.ls1(self.attn(qkv, rows, cols))
            return (x[..., : self.channels] + self.ls2(self.mlp(self.norm2(x)))).movedim(-1, 1)

        each = 3 * self.mlp.w3.in_features + 4 * width
        side = next(
            s
            for s in SIDES
            if s == 1
            or batch * s**2 * (3 * HEADS * (s + 2 * self.attn.reach) ** 2 + each) * tokens.element_size()
            <= memory
        )
        return assemble(
            piece,
            (batch, self.channels, h, w),
            tokens,
            [qkv, *self.parameters()],
            rows=split(h, side),
            cols=split(w, side),
        )

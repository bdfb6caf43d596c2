"""The transformer block of Restormer: attention between channels, and a gated feed-forward layer (sections 3.1, 3.2).

In inference both work on strips of rows, with one row more on either side for their 3x3 convolutions, so that their
many channels are never held for a whole image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.pieces import split

from .noise_predictor import keeps_nothing

EPS = 1e-5


class _NormWeights(nn.Module):
    """Weight and, if wanted, bias of a norm, where published state dicts have them."""

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))
        self.bias = nn.Parameter(torch.zeros(dim)) if bias else None


class ChannelNorm(nn.Module):
    """Norm over the channels of each pixel; without bias, the mean is not subtracted (but left out of the variance)."""

    def __init__(self, dim: int, bias: bool) -> None:
        super().__init__()
        self.body = _NormWeights(dim, bias)

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.body.weight, self.body.bias
        last = x.permute(0, 2, 3, 1)
        if bias is not None:
            last = F.layer_norm(last, weight.shape, weight, bias, EPS)
        else:
            last = last * (last.var(-1, correction=0, keepdim=True) + EPS).rsqrt() * weight
        return last.permute(0, 3, 1, 2)


class _InStrips(nn.Module):
    """Rows of a map behind a function that ends in a 3x3 convolution, as many at a time as memory allows.

    Args:
        channels: that the function holds at a time, for each pixel.
        memory: bytes for them.
    """

    def __init__(self, channels: int, memory: int) -> None:
        super().__init__()
        self.channels, self.memory = channels, memory

    def strips(self, function: Callable[[Tensor], Tensor], x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Rows, and ``function(x)`` there."""
        height = x.shape[2]
        row = self.channels * x[:, 0, 0].numel() * x.element_size()
        for start, stop in split(height, self.memory // row):
            first, last = max(0, start - 1), min(height, stop + 1)
            yield slice(start, stop), function(x[:, :, first:last])[:, :, start - first : stop - first]


class ChannelAttention(_InStrips):
    """Attention whose tokens are channels: multi-Dconv head transposed attention."""

    def __init__(self, dim: int, heads: int, bias: bool, memory: int) -> None:
        super().__init__(9 * dim, memory)
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=bias)
        self.qkv_dwconv = nn.Conv2d(3 * dim, 3 * dim, 3, padding=1, groups=3 * dim, bias=bias)
        self.project_out = nn.Conv2d(dim, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not keeps_nothing(self, x):
            q, k, v = self._heads(self._projected(x))
            scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT
            return self._mix(scores, v, x.shape[-2:])
        scores = q_norm = k_norm = x.new_zeros(())
        for _, part in self.strips(self._projected, x):
            q, k, _ = self._heads(part)
            scores = scores + q @ k.mT
            q_norm, k_norm = q_norm + q.square().sum(-1), k_norm + k.square().sum(-1)
        q_norm, k_norm = (norm.sqrt().clamp_min(1e-12) for norm in (q_norm, k_norm))  # as F.normalize does
        scores = scores / q_norm[..., :, None] / k_norm[..., None, :]
        output = torch.empty_like(x)
        for rows, part in self.strips(self._projected, x):
            output[:, :, rows] = self._mix(scores, self._heads(part)[2], part.shape[-2:])
        return output

    def _projected(self, x: Tensor) -> Tensor:
        return self.qkv_dwconv(self.qkv(x))

    def _heads(self, projected: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values (B, heads, channels, pixels)."""
        q, k, v = (part.flatten(2).unflatten(1, (self.heads, -1)) for part in projected.chunk(3, dim=1))
        return q, k, v

    def _mix(self, scores: Tensor, values: Tensor, size: torch.Size) -> Tensor:
        mixed = (scores * self.temperature).softmax(dim=-1) @ values
        return self.project_out(mixed.flatten(1, 2).unflatten(-1, size))


class GatedFeedForward(_InStrips):
    """Two projections of which one gates the other: gated-Dconv feed-forward network."""

    def __init__(self, dim: int, expansion: float, bias: bool, memory: int) -> None:
        hidden = int(dim * expansion)
        super().__init__(6 * hidden + dim, memory)
        self.project_in = nn.Conv2d(dim, 2 * hidden, 1, bias=bias)
        self.dwconv = nn.Conv2d(2 * hidden, 2 * hidden, 3, padding=1, groups=2 * hidden, bias=bias)
        self.project_out = nn.Conv2d(hidden, dim, 1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        if not keeps_nothing(self, x):
            return self._fed(x)
        output = torch.empty_like(x)
        for rows, part in self.strips(self._fed, x):
            output[:, :, rows] = part
        return output

    def _fed(self, x: Tensor) -> Tensor:
        gate, value = self.dwconv(self.project_in(x)).chunk(2, dim=1)
        return self.project_out(F.gelu(gate) * value)


class Block(nn.Module):
    """Attention between channels and a feed-forward layer, each behind a norm and added to its input."""

    def __init__(
        self, dim: int, heads: int, expansion: float, bias: bool, norm_bias: bool, memory: int
    ) -> None:
        super().__init__()
        self.norm1 = ChannelNorm(dim, norm_bias)
        self.attn = ChannelAttention(dim, heads, bias, memory)
        self.norm2 = ChannelNorm(dim, norm_bias)
        self.ffn = GatedFeedForward(dim, expansion, bias, memory)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.ffn(self.norm2(x))

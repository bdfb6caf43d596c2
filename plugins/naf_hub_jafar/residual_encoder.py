"""Pointwise residual encoders and the learned rotation that JAFAR and AnyUp share (arXiv 2506.11136, section 3)."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.sizes import are_equal, average_pool, line

GROUPS = 8


class ReflectedConv(nn.Conv2d):
    """Convolution without bias that keeps the size: borders are reflected without repeating the edge.

    A side too short to reflect is replicated instead; the published code refuses it.
    """

    def __init__(self, inputs: int, outputs: int, kernel_size: int) -> None:
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
        super().__init__(inputs, outputs, kernel_size, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        reach = self.kernel_size[0] // 2
        if reach:
            height, width = input.shape[-2:]
            input = F.pad(input, (0, 0, reach, reach), "reflect" if height > reach else "replicate")
            input = F.pad(input, (reach, reach, 0, 0), "reflect" if width > reach else "replicate")
        return F.conv2d(input, self.weight)


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU and a pointwise convolution, twice, beside an identity (a convolution where widths differ)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.block = nn.Sequential(
            nn.GroupNorm(GROUPS, inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.GroupNorm(GROUPS, outputs),
            nn.SiLU(),
            nn.Conv2d(outputs, outputs, 1, bias=False),
        )
        self.shortcut = nn.Conv2d(inputs, outputs, 1, bias=False) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        return self.block(x) + self.shortcut(x)


def residual_encoder(first: nn.Module, width: int, outputs: int) -> nn.Sequential:
    """``first``, which puts out ``width`` channels, then two residual blocks to ``outputs`` channels."""
    return nn.Sequential(first, ResidualBlock(width, outputs), ResidualBlock(outputs, outputs))


def pooled(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (B, D, H, W) averaged to a size, or repeated where that is larger."""
    return maps if are_equal(maps.shape[-2:], size) else average_pool(maps, size)


class LearnedRotation(nn.Module):
    """Mix channel pairs of a map by learned angles that grow with position.

    Channel c pairs with channel c + D/2, each turned by an angle of its own, so that norms are not kept: with
    ``t_c(y, x) = y freqs[0, c] + x freqs[1, c]`` and y, x from 0 at the first to 1 at the last row or column,
    ``out_c = X_c cos t_c - X_{c + D/2} sin t_c``, and ``out_{c + D/2}`` the same with a plus.

    Args:
        dim: channels D, a multiple of 4.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        quarter = dim // 4
        slowing = torch.arange(quarter) / max(1, quarter - 1)
        turns = 2 * math.pi * 100.0**-slowing
        still = torch.zeros(2 * quarter)
        self.freqs = nn.Parameter(
            torch.stack((torch.cat((turns, turns, still)), torch.cat((still, turns, turns))))
        )

    def forward(self, x: Tensor) -> Tensor:
        """Turn (B, D, H, W)."""
        first, second = x.chunk(2, dim=1)
        low, high = self.freqs.chunk(2, dim=1)
        # One half after the other: angles, sines and products of all channels would be six maps at a time.
        return torch.cat((_turned(first, second, low, -1), _turned(second, first, high, 1)), dim=1)


def _turned(kept: Tensor, other: Tensor, freqs: Tensor, sign: int) -> Tensor:
    """``kept cos t + sign other sin t`` for maps (B, D, H, W), t the angle by ``freqs`` (2, D) at each position."""
    y, x = (line(0, 1, n, freqs) for n in kept.shape[-2:])
    angles = freqs[0, :, None, None] * y[:, None] + freqs[1, :, None, None] * x
    cosine, sine = angles.cos().to(kept.dtype), angles.sin().to(kept.dtype)
    del angles
    return torch.add(kept * cosine, other * sine, alpha=sign)

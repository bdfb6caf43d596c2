"""Where queries and cells are: all in float32 or better, since half precision moves a query by most of a pixel."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

BANDS = 16
HIGHEST = 10.0  # frequency of the last band
PERIODS = 100.0  # from 1 to nearly so many cells


def pixel_centres(height: int, width: int, like: Tensor) -> Tensor:
    """Centres (H * W, 2) of pixels as (x, y) in shares of the image, row by row; dtype and device of ``like``."""
    y, x = ((torch.arange(n, dtype=like.dtype, device=like.device) + 0.5) / n for n in (height, width))
    return torch.stack((x.expand(height, width), y[:, None].expand(height, width)), -1).flatten(0, 1)


def in_cells(points: Tensor, grid: tuple[int, int]) -> Tensor:
    """Points (..., 2) as (x, y) in cells of a grid of (h, w)."""
    return points * points.new_tensor((grid[1], grid[0]))


def nearest_cells(points: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """The cell that each point lies in.

    Args:
        points: (..., 2) as (x, y) in shares of the image; on a border between two cells, that of even index has them.
        grid: (h, w).

    Returns:
        Row by row index of the cell (...), and where the point lies from its centre (..., 2), in cells.
    """
    sides = points.new_tensor((grid[1], grid[0]))
    cell = torch.minimum((points * sides - 0.5).round().clamp_min(0), sides - 1)
    offset = (points - (cell + 0.5) / sides) * sides
    column, row = cell.unbind(-1)
    return (row * grid[1] + column).long(), offset


def rotary_phases(at: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (..., head_dim / 2) of points (..., 2) as (x, y) in cells: x for the first half, then y."""
    quarter = head_dim // 4
    k = torch.arange(quarter, dtype=at.dtype, device=at.device)
    angles = (2 * math.pi * at[..., None] * PERIODS ** (-k / quarter)).flatten(-2)
    return angles.cos(), angles.sin()


def rotate(x: Tensor, phases: tuple[Tensor, Tensor]) -> Tensor:
    """(..., head_dim), each pair of neighbouring channels turned by its angle; keeps the dtype."""
    cos, sin = phases
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    return torch.stack((a * cos - b * sin, b * cos + a * sin), -1).flatten(-2).to(x.dtype)


def sample(maps: Tensor, points: Tensor) -> Tensor:
    """Values (B, N, C) of maps (B, C, h, w) at points (B, N, 2) as (x, y) in shares of the image; bilinear, borders
    replicated."""
    found = F.grid_sample(maps, 2 * points[:, :, None] - 1, padding_mode="border", align_corners=False)
    return found.squeeze(-1).mT


class OffsetWaves(nn.Module):
    """An offset from a cell's centre as 66 numbers: itself, then sines and cosines of 16 frequencies of x and y."""

    freqs: Tensor

    def __init__(self) -> None:
        super().__init__()
        steps = torch.arange(BANDS) / (BANDS - 1)
        self.register_buffer("freqs", torch.exp(steps * math.log(HIGHEST)))

    def _apply(self, fn, recurse: bool = True) -> OffsetWaves:
        before = self.freqs
        super()._apply(fn, recurse)
        if self.freqs.dtype in (torch.float16, torch.bfloat16):  # it would shift the waves
            self.freqs = before.to(self.freqs.device)
        return self

    def forward(self, offset: Tensor) -> Tensor:
        """(..., 2) -> (..., 66)."""
        angles = math.pi * offset[..., None] * self.freqs.to(offset.dtype)
        return torch.cat((offset, angles.sin().flatten(-2), angles.cos().flatten(-2)), -1)

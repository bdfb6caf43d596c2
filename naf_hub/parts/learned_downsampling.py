"""Down from pixels to a backbone's cells, learned beside what upsamples (FeatUp, arXiv 2403.10516, section 3.1).

These are networks of a loss: once the upsampler is trained, nobody needs them.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

DROPOUT = 0.2


class AttentionDownsampler(nn.Module):
    """Each cell is a weighted mean over a patch of pixels, of maps that are blurred a little first.

    Weights are ``softmax(w (a f + c) + b)``: a linear map of the pixel's features, and a factor and an offset for each
    place in the patch.

    Args:
        channels: of the maps.
        patch: (rows, columns) pixels.
    """

    def __init__(self, channels: int, patch: tuple[int, int]) -> None:
        super().__init__()
        self.patch = patch
        self.logit = nn.Linear(channels, 1)
        self.factor = nn.Parameter(1 + 0.01 * torch.randn(patch))
        self.offset = nn.Parameter(0.01 * torch.randn(patch))

    def forward(self, maps: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, channels, H, W) -> (B, channels, h, w) of a grid (h, w)."""
        batch, _, height, width = maps.shape
        (h, w), (rows, columns) = grid, self.patch
        down, across = _stride(height, rows, h), _stride(width, columns, w)
        maps = blurred(maps)
        logits = self.logit(F.dropout(maps.movedim(1, -1), DROPOUT, self.training)).squeeze(-1)
        patches = logits.unfold(1, rows, down)[:, :h].unfold(2, columns, across)[:, :, :w]
        # Now and then a cell forgets the features and weighs by place alone.
        kept = torch.rand(batch, h, w, 1, 1, device=maps.device) > DROPOUT if self.training else 1.0
        scores = patches * kept * self.factor + self.offset
        weights = scores.flatten(3).softmax(-1).view(batch, h, w, rows, columns)
        # As dense products with bands of the map: its patches overlap, and unfolded would be several maps.
        row, column, cell = (torch.arange(n, device=maps.device) for n in (rows, columns, w))
        place = (row[:, None, None] * width + column[:, None] + cell * across) * w + cell
        bands = weights.new_zeros(batch, h, rows * width * w)
        bands = bands.index_copy(2, place.flatten(), weights.permute(0, 1, 3, 4, 2).flatten(2))
        bands = bands.view(batch, h, rows * width, w)
        strips = (maps[:, :, i * down : i * down + rows].flatten(2) for i in range(h))
        return torch.stack([strip @ bands[:, i] for i, strip in enumerate(strips)], dim=2)


class KernelDownsampler(nn.Module):
    """Each cell is the same weighted mean of a patch of pixels, whatever they show.

    Args:
        patch: (rows, columns) pixels.
    """

    def __init__(self, patch: tuple[int, int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(patch))

    def forward(self, maps: Tensor, grid: tuple[int, int]) -> Tensor:
        """(B, C, H, W) -> (B, C, h, w) of a grid (h, w)."""
        weight = self.weight.abs()
        steps = [
            _stride(n, side, cells)
            for n, side, cells in zip(maps.shape[-2:], weight.shape, grid, strict=True)
        ]
        found = F.conv2d(maps.flatten(0, 1)[:, None], (weight / weight.sum())[None, None], stride=steps)
        return found[:, 0, : grid[0], : grid[1]].unflatten(0, maps.shape[:2])


class Spread(nn.Module):
    """How far off the features of each cell may be, as learned with them: a pointwise map of the features."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.logarithm = nn.Conv2d(channels, 1, 1)
        with torch.no_grad():
            for parameter in self.logarithm.parameters():
                parameter.mul_(0.1)

    def forward(self, features: Tensor) -> Tensor:
        """(B, channels, h, w) -> (B, 1, h, w), positive."""
        return torch.exp(self.logarithm(features) + 0.1).clamp_min(1e-4)


def error_by_spread(found: Tensor, target: Tensor, spread: Tensor) -> Tensor:
    """Minus the mean logarithm, less a constant, of how likely values are whose deviation is ``spread``.

    Args:
        found, target: (B, C, h, w).
        spread: (B, 1, h, w).
    """
    return ((found - target).square() / (2 * spread.square()) + spread.log()).mean()


def blurred(maps: Tensor) -> Tensor:
    """(B, C, H, W) behind a 5x5 Gaussian of one pixel's deviation; borders reflected, or repeated where too short."""
    weights = [math.exp(-at * at / 2) for at in range(-2, 3)]
    for axis, padding in ((-2, (0, 0, 2, 2)), (-1, (2, 2, 0, 0))):
        size = maps.shape[axis]
        padded = F.pad(maps, padding, "reflect" if size > 2 else "replicate")
        maps = torch.zeros_like(maps)
        for i, weight in enumerate(weights):
            maps.add_(padded.narrow(axis, i, size), alpha=weight / sum(weights))
    return maps


def _stride(size: int, patch: int, cells: int) -> int:
    # A whole number, as published, from the first pixel on: the last patch may end before the map does.
    return (size - patch) // (cells - 1) if cells > 1 else 1

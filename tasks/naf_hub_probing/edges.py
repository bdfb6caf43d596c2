"""Edges of feature maps: where L2-normalised features change fastest, thinned to lines of one pixel."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

CHANNELS = 32
"""Channels differentiated at a time: the two gradients of a whole map would triple its memory."""


class Edges(NamedTuple):
    """What is left of an edge map after thinning.

    Attributes:
        points: (N, 2) rows and columns, int64.
        strength: (N,) gradient magnitude there.
        size: (H, W) of the map.
    """

    points: Tensor
    strength: Tensor
    size: tuple[int, int]

    def to_plain(self) -> dict[str, Any]:
        """Plain data for a file, from which :meth:`from_plain` makes the same edges; strengths as float32."""
        height, width = self.size
        places = (self.points[:, 0] * width + self.points[:, 1]).cpu().numpy()
        strength = self.strength.float().cpu().numpy()
        return {
            "size": [height, width],
            "places": base64.b64encode(places.astype("<u4").tobytes()).decode(),
            "strength": base64.b64encode(strength.astype("<f4").tobytes()).decode(),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Edges:
        """The edges of :meth:`to_plain`, on the CPU."""
        height, width = plain["size"]
        places = np.frombuffer(base64.b64decode(plain["places"]), "<u4").astype(np.int64)
        strength = np.frombuffer(base64.b64decode(plain["strength"]), "<f4").astype(np.float32)
        points = torch.from_numpy(np.stack([places // width, places % width], 1))
        return cls(points, torch.from_numpy(strength), (height, width))


def structure(features: Tensor, normalize: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over channels of the products of central differences: xx, xy and yy, each (H, W).

    Args:
        features: (C, H, W).
        normalize: bring every vector to length 1 first, so that contrast in direction counts alone.
    """
    length = torch.zeros(features.shape[-2:], dtype=torch.float32, device=features.device)
    for part in features.split(CHANNELS):
        length += part.float().square().sum(0)
    scale = length.sqrt().clamp_min(1e-12).reciprocal() if normalize else torch.ones_like(length)
    xx, xy, yy = (torch.zeros_like(length) for _ in range(3))
    for part in features.split(CHANNELS):
        padded = F.pad((part.float() * scale)[None], (1, 1, 1, 1), mode="replicate")[0]
        dx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
        dy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
        xx += dx.square().sum(0)
        xy += (dx * dy).sum(0)
        yy += dy.square().sum(0)
    return xx, xy, yy


def find_edges(features: Tensor, sigma: float = 1.0, normalize: bool = True) -> Edges:
    """Thinned edges of (C, H, W) features, or of a picture (without ``normalize``).

    The strength is the square root of the larger eigenvalue of the structure tensor, smoothed by a Gaussian of
    ``sigma`` pixels; a pixel stays where it is no weaker than its two neighbours across the edge (Canny 1986), those
    taken by bilinear interpolation along the eigenvector.
    """
    xx, xy, yy = (blur(part, sigma) for part in structure(features, normalize))
    middle, half = (xx + yy) / 2, (xx - yy) / 2
    root = torch.hypot(half, xy)
    strength = (middle + root).clamp_min(0).sqrt()
    angle = torch.atan2(xy, half) / 2  # of the direction across the edge
    ahead, behind = (sample(strength, sign * angle.cos(), sign * angle.sin()) for sign in (1, -1))
    # One of two equal neighbours stays: a ridge two pixels wide is a line all the same.
    kept = (strength >= ahead) & (strength > behind) & (strength > 0)
    return Edges(kept.nonzero(), strength[kept], (strength.shape[0], strength.shape[1]))


def blur(values: Tensor, sigma: float) -> Tensor:
    """A Gaussian blur of (H, W), borders repeated."""
    reach = max(1, round(3 * sigma))
    offsets = torch.arange(-reach, reach + 1, dtype=values.dtype, device=values.device)
    kernel = torch.exp(-(offsets**2) / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).view(1, 1, -1, 1)
    padded = F.pad(values[None, None], (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel), kernel.transpose(2, 3))[0, 0]


def sample(values: Tensor, dx: Tensor, dy: Tensor) -> Tensor:
    """(H, W) values at the places ``dx`` columns and ``dy`` rows from each pixel, bilinearly."""
    height, width = values.shape
    y, x = torch.meshgrid(
        torch.arange(height, device=values.device), torch.arange(width, device=values.device), indexing="ij"
    )
    grid = torch.stack([(2 * (x + dx) + 1) / width - 1, (2 * (y + dy) + 1) / height - 1], -1)
    return F.grid_sample(
        values[None, None], grid[None], mode="bilinear", padding_mode="border", align_corners=False
    )[0, 0]

"""Homographies drawn at random, photos as they show them, and where each point comes to lie."""

from __future__ import annotations

import math
import random

import torch
import torch.nn.functional as F
from torch import Tensor

LARGEST_TURN = 30.0
"""Degrees."""
LARGEST_SCALE = 1.4
LARGEST_SHIFT = 0.1
"""Of the side."""
LARGEST_TILT = 0.4
"""Change of the scale from the middle to the border is half of it."""


def draw_homography(key: str, size: int, strength: float = 1.0) -> Tensor:
    """A turn, a change of scale, a tilt and a shift about the middle of a square, the same for the same key.

    Args:
        key: what decides the draw: seed and name of the photo, say.
        size: side of the square in pixels.
        strength: 1 draws turns of up to 30 degrees, scales of 1/1.4 to 1.4, shifts of a tenth of the side and tilts
            that change the scale by up to a fifth from the middle to the border; 0 changes nothing.

    Returns:
        (3, 3) float64, from (x, y, 1) in pixels of the source (the centre of the first is 0.5) to the target's.
    """
    draw = random.Random(key)

    def upto(limit: float) -> float:
        return strength * draw.uniform(-limit, limit)

    turn, scale = math.radians(upto(LARGEST_TURN)), LARGEST_SCALE ** upto(1.0)
    cos, sin = scale * math.cos(turn), scale * math.sin(turn)
    similar = _matrix((cos, -sin, 0), (sin, cos, 0), (0, 0, 1))
    tilt = _matrix((1, 0, 0), (0, 1, 0), (upto(LARGEST_TILT) / size, upto(LARGEST_TILT) / size, 1))
    away = _matrix((1, 0, -size / 2), (0, 1, -size / 2), (0, 0, 1))
    shift = [upto(LARGEST_SHIFT) * size for _ in range(2)]
    back = _matrix((1, 0, size / 2 + shift[0]), (0, 1, size / 2 + shift[1]), (0, 0, 1))
    return back @ tilt @ similar @ away


def move(points: Tensor, homography: Tensor) -> Tensor:
    """Where points (..., 2), pixels (x, y), come to lie: (..., 2) float64; infinite where they leave the plane."""
    moved = F.pad(points.double(), (0, 1), value=1.0) @ homography.T
    depth = moved[..., 2:]
    return torch.where(depth > 0, moved[..., :2] / depth, torch.inf)


def centres(count: int, size: int) -> Tensor:
    """(count * count, 2) pixels (x, y) at the centres of the cells of a square, by rows."""
    along = (torch.arange(count, dtype=torch.float64) + 0.5) * size / count
    y, x = torch.meshgrid(along, along, indexing="ij")
    return torch.stack([x.flatten(), y.flatten()], dim=1)


def lie_inside(points: Tensor, size: int) -> Tensor:
    """(...) whether pixels (x, y) lie on a square photo."""
    return ((points >= 0) & (points < size)).all(-1)


def show(image: Tensor, homography: Tensor) -> Tensor:
    """The square photo (3, S, S) as the homography shows it, bilinear; black where it shows nothing."""
    size = image.shape[-1]
    origin = move(centres(size, size), torch.linalg.inv(homography)).view(1, size, size, 2)
    # Far outside is as black as infinitely far, of which the sampler makes NaN.
    grid = (2 * origin / size - 1).clamp(-9, 9).to(image.dtype)
    return F.grid_sample(image[None], grid, mode="bilinear", align_corners=False)[0]


def _matrix(*rows: tuple[float, float, float]) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)

"""Views of an image, moved, zoomed and mirrored at random, and the same done to maps (FeatUp, section 3)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Published for images of 224 pixels: 30 pixels of border.
BORDER = 30 / 224
LARGEST_ZOOM = 1.8


class Jitter(NamedTuple):
    """One view, in shares of the image, so that it means the same for maps of any size.

    Attributes:
        zoom: at least 1.
        top, left: where the view starts, as a share of where it can.
        mirrored: left to right.
    """

    zoom: float = 1.0
    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False


def draw_jitters(count: int, seed: int) -> list[Jitter]:
    """``count`` views; half of them zoomed, half mirrored. The first ones do not depend on ``count``."""
    numbers = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [
        Jitter(1 + (LARGEST_ZOOM - 1) * zoom if zooms > 0.5 else 1.0, top, left, flip > 0.5)
        for zooms, zoom, top, left, flip in numbers.tolist()
    ]


def apply_jitter(maps: Tensor, jitter: Jitter) -> Tensor:
    """The view of (B, C, H, W), in the same size, beyond the borders reflected; bilinear."""
    batch, _, height, width = maps.shape
    y = _positions(height, jitter.zoom, jitter.top, maps)
    x = _positions(width, jitter.zoom, jitter.left, maps)
    if jitter.mirrored:
        x = x.flip(0)
    grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1)
    grid = grid.expand(batch, -1, -1, -1)
    return F.grid_sample(maps, grid, padding_mode="reflection", align_corners=True)


def _positions(size: int, zoom: float, start: float, like: Tensor) -> Tensor:
    """Where a view's pixels lie along an axis, -1 at the first and 1 at the last pixel of the map."""
    border = round(BORDER * size)
    room = int((size + 2 * border) * zoom) - size + 1
    first = min(int(start * room), room - 1)
    at = (torch.arange(size, dtype=torch.float64) + first + 0.5) / zoom - 0.5 - border
    return (2 * at / max(size - 1, 1) - 1).to(like.device, like.dtype)

"""Views of an image, moved, zoomed and mirrored at random, and the same done to maps (FeatUp, arXiv 2403.10516)."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Jitter(NamedTuple):
    """One view, in shares of the image, so that it means the same for maps of any size.

    Attributes:
        zoom: at least 1.
        top, left: where the view starts, as a share of where it can.
        mirrored: left to right.
        border: how far beyond the image it may start, as a share of its side.
    """

    zoom: float = 1.0
    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False
    border: float = 0.0


def draw_jitters(count: int, seed: int, largest_zoom: float, border: float) -> list[Jitter]:
    """``count`` views; half of them zoomed, half mirrored. The first ones do not depend on ``count``."""
    numbers = torch.rand(count, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return [
        Jitter(1 + (largest_zoom - 1) * zoom if zooms > 0.5 else 1.0, top, left, flip > 0.5, border)
        for zooms, zoom, top, left, flip in numbers.tolist()
    ]


def apply_jitter(maps: Tensor, jitter: Jitter, size: tuple[int, int] | None = None) -> Tensor:
    """The view of (B, C, H, W), in the same size, beyond the borders reflected; bilinear.

    ``size`` is that of the image, where maps have another: views start at whole pixels of it.
    """
    batch, _, height, width = maps.shape
    rows, columns = size or (height, width)
    y = _positions(height, rows, jitter, jitter.top)
    x = _positions(width, columns, jitter, jitter.left)
    if jitter.mirrored:
        x = x.flip(0)
    grid = torch.stack(torch.broadcast_tensors(x, y[:, None]), dim=-1).to(maps)
    grid = grid.expand(batch, -1, -1, -1)
    return F.grid_sample(maps, grid, padding_mode="reflection", align_corners=True)


def _positions(count: int, size: int, jitter: Jitter, start: float) -> Tensor:
    """Where a view's ``count`` pixels lie along an axis of the image, -1 at the map's first and 1 at its last pixel."""
    border = round(jitter.border * size)
    room = int((size + 2 * border) * jitter.zoom) - size + 1
    first = min(int(start * room), room - 1)
    pixels = size / count
    at = (torch.arange(count, dtype=torch.float64) + 0.5) * pixels
    at = ((at + first) / jitter.zoom - border) / pixels - 0.5
    return 2 * at / max(count - 1, 1) - 1

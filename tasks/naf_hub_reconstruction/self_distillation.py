"""An upsampler that learns from its own running average, which sees a part of the picture in full size.

The second stage of LoftUp (arXiv 2504.14032), without its masks.
"""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.interfaces import Upsampler

from .features import Teacher, resize

# LoftUp's code moves its average by a hundredth every ten steps.
KEPT = 0.999
# Share of a part's side left out at each border, where the average knows less than the whole picture shows.
MARGIN = 0.1


class SelfDistillation(nn.Module):
    """The running average of an upsampler's weights, and what it says of parts of a picture.

    Args:
        upsampler: as it is at the start.
    """

    followed: Tensor

    def __init__(self, upsampler: Upsampler) -> None:
        super().__init__()
        self.average = copy.deepcopy(upsampler).requires_grad_(False).eval()
        self.register_buffer("followed", torch.zeros((), dtype=torch.int64))

    def train(self, mode: bool = True) -> SelfDistillation:
        """The average stays in eval mode."""
        super().train(mode)
        self.average.eval()
        return self

    @torch.no_grad()
    def follow(self, upsampler: Upsampler, step: int) -> None:
        """Move the average towards the weights after ``step`` steps, once however often it is called for them."""
        if step <= int(self.followed):
            return
        for mine, theirs in zip(self.average.parameters(), upsampler.parameters(), strict=True):
            mine.lerp_(theirs, 1 - KEPT)
        for mine, theirs in zip(self.average.buffers(), upsampler.buffers(), strict=True):
            mine.copy_(theirs)
        self.followed.fill_(step)

    def forward(self, teacher: Teacher, crops: Tensor, side: int, maps: Tensor) -> Tensor:
        """Mean squared difference between the cosines of all positions of a random part with each other, and those
        that the average finds there.

        Args:
            teacher: gives features.
            crops: (B, 3, S, S) in [0, 1].
            side: of the picture of the whole crop that was upsampled, and of the part, in pixels of the crop.
            maps: (B, C, n, n), the result for that picture.
        """
        whole, count = crops.shape[-1], maps.shape[-1]
        width = max(1, round(count * side / whole))
        top, left = torch.randint(count - width + 1, (2,)).tolist()
        y, x = (min(round(place * whole / count), whole - side) for place in (top, left))
        part = crops[..., y : y + side, x : x + side]
        with torch.no_grad():
            small = teacher.gathering_by(self.average).features(part)
            with torch.autocast(crops.device.type, torch.bfloat16, enabled=teacher.autocast):
                wanted = self.average(part, small, (count, count))
            wanted = resize(wanted.float(), width)
        found = maps[..., top : top + width, left : left + width]
        return cosines_apart(*(_inner(part) for part in (found, wanted)))


def cosines_apart(found: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference between the cosines of all positions with each other in two maps (B, C, H, W).

    By products over positions, (B, C, C), so that no matrix of all pairs is made.
    """
    a, b = (F.normalize(maps.flatten(2), dim=1) for maps in (found, target))
    squares = (a @ a.mT).square() - 2 * (a @ b.mT).square() + (b @ b.mT).square()
    return squares.sum((1, 2)).mean() / a.shape[-1] ** 2


def _inner(maps: Tensor) -> Tensor:
    side = maps.shape[-1]
    inner = slice(int(MARGIN * side), side - int(MARGIN * side))
    return maps[..., inner, inner]

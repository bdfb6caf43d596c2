"""Sliding windows: a picture cut to overlapping crops, and their maps averaged where they overlap."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

Box = tuple[int, int, int, int]


def working_size(height: int, width: int, short: int, long: int) -> tuple[int, int]:
    """(H, W) of the same aspect with the short side at ``short``, or the long side at ``long`` if that is less."""
    scale = min(short / min(height, width), long / max(height, width))
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def padding(height: int, width: int, multiple: int) -> Box:
    """Pixels (left, right, top, bottom) that bring both sides to a multiple; an odd one goes behind."""
    x, y = -width % multiple, -height % multiple
    return x // 2, x - x // 2, y // 2, y - y // 2


class SlidingWindow:
    """Windows of ``crop`` pixels every ``stride``, the last of a row and of a column shifted back inside.

    Args:
        size: (h, w) of the picture.
        crop: side of a window; less where the picture is smaller.
        stride: from one window to the next.
        multiple: windows are padded to a multiple of it.

    Attributes:
        boxes: (top, bottom, left, right) of each window.
    """

    def __init__(self, size: tuple[int, int], crop: int, stride: int, multiple: int) -> None:
        self.size = size
        rows, columns = ([min(i * stride + crop, side) for i in range(max(side - crop + stride - 1, 0) // stride + 1)]
                         for side in size)  # fmt: skip
        self.boxes: list[Box] = [(max(y - crop, 0), y, max(x - crop, 0), x) for y in rows for x in columns]
        self.paddings = [
            padding(bottom - top, right - left, multiple) for top, bottom, left, right in self.boxes
        ]

    def cut(self, image: Tensor, fill: Tensor) -> list[Tensor]:
        """The padded windows (1, 3, H, W) of a picture (1, 3, h, w); ``fill`` (3,) is the colour around it."""
        crops = []
        for (top, bottom, left, right), (before, after, above, below) in zip(
            self.boxes, self.paddings, strict=True
        ):
            height, width = bottom - top, right - left
            crop = fill.view(1, 3, 1, 1).repeat(1, 1, above + height + below, before + width + after)
            crop[:, :, above : above + height, before : before + width] = image[:, :, top:bottom, left:right]
            crops.append(crop)
        return crops

    def join(self, maps: Iterable[Tensor]) -> Tensor:
        """(1, Q, h, w): the mean of all maps (1, Q, H, W) of padded windows that cover a pixel."""
        total: Tensor | None = None
        visits = torch.zeros(self.size)
        for found, (top, bottom, left, right), (before, _, above, _) in zip(
            maps, self.boxes, self.paddings, strict=True
        ):
            if total is None:
                total = found.new_zeros(*found.shape[:2], *self.size)
            inside = found[:, :, above : above + bottom - top, before : before + right - left]
            total[:, :, top:bottom, left:right] += inside
            visits[top:bottom, left:right] += 1
        assert total is not None
        return total / visits.to(total.device)

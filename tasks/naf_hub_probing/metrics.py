"""Segmentation scores from one confusion matrix over a whole split, never from per-image means."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.confusion import Confusion

BANDS = (2, 5)
"""Widths of the bands along label boundaries that are scored by themselves, in pixels to either side."""


def predict(scores: Tensor) -> Tensor:
    """(H, W) int64 class of the highest of (K, H, W) scores; the first of equals."""
    if scores.device.type != "cpu":
        return scores.argmax(0)
    # On CPUs argmax over the leading axis is scalar code; these passes are vectorised.
    best, ids = scores[0], torch.zeros(scores.shape[1:], dtype=torch.int64)
    for k in range(1, len(scores)):
        ids.masked_fill_(scores[k] > best, k)
        best = torch.maximum(best, scores[k])
    return ids


def boundary_band(target: Tensor, width: int, ignore: int = -1) -> Tensor:
    """(H, W) bool: pixels with a pixel of another class at most ``width`` rows and columns away.

    Boundaries to pixels that are ignored do not count: where the class is not known, neither is its outline.
    """
    labels = target.float()[None]
    side = 2 * width + 1

    def highest(values: Tensor) -> Tensor:
        return F.max_pool2d(values, side, 1, width)  # padded by minus infinity

    known = labels != ignore
    high = highest(torch.where(known, labels, -torch.inf))
    low = -highest(torch.where(known, -labels, -torch.inf))
    return ((high > low) & known)[0]


class Scores:
    """Confusion over a split, and that of the pixels within so many pixels of a label boundary.

    What an upsampler can gain lies along the boundaries, which are few of all pixels (the trimap measure of Kohli,
    Ladicky and Torr, IJCV 2009).

    Attributes:
        whole: of all pixels.
        bands: by width of the band, in pixels.
    """

    def __init__(self, num_classes: int, widths: Iterable[int] = BANDS) -> None:
        self.whole = Confusion(num_classes)
        self.bands = {width: Confusion(num_classes) for width in widths}

    def update(self, prediction: Tensor, target: Tensor, bands: dict[int, Tensor], ignore: int = -1) -> None:
        """Add one picture, see :meth:`Confusion.update`; ``bands`` holds :func:`boundary_band` of each width."""
        self.whole.update(prediction, target, ignore)
        for width, confusion in self.bands.items():
            confusion.update(prediction, torch.where(bands[width], target, ignore), ignore)

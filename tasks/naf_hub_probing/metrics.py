"""Segmentation scores from one confusion matrix over a whole split, never from per-image means."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

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


class Confusion:
    """Counts of (target, prediction) pairs.

    Attributes:
        counts: (K, K) int64; rows are targets, columns predictions.
    """

    def __init__(self, num_classes: int) -> None:
        self.counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)

    def update(self, prediction: Tensor, target: Tensor, ignore: int = -1) -> None:
        """Add integer tensors of one shape, classes 0..K-1; where the target is ``ignore``, nothing counts.

        Raises:
            ValueError: shapes differ, or a class lies outside 0..K-1.
        """
        if prediction.shape != target.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and target {tuple(target.shape)} differ in shape"
            )
        classes = len(self.counts)
        if not target.numel():
            return
        valid = target != ignore
        target, prediction = torch.where(valid, target, 0).long(), torch.where(valid, prediction, 0).long()
        for name, ids in (("target", target), ("prediction", prediction)):
            low, high = torch.aminmax(ids)
            if low < 0 or high >= classes:
                raise ValueError(f"{name} holds classes outside 0..{classes - 1}")
        # Ignored pixels go to a bin of their own: cheaper than picking out the others.
        pairs = torch.where(valid, target * classes + prediction, classes * classes)
        counts = torch.bincount(pairs.flatten(), minlength=classes * classes + 1)[:-1]
        self.counts += counts.view(classes, classes).cpu()

    def iou(self) -> Tensor:
        """(K,) float64 TP / (TP + FP + FN); NaN for a class absent from targets and predictions."""
        hits = self.counts.diagonal().double()
        union = (self.counts.sum(0) + self.counts.sum(1)).double() - hits
        return torch.where(union > 0, hits / union, torch.nan)

    def mean_iou(self) -> float:
        """Mean of :meth:`iou` over the classes that occur in targets or predictions."""
        return float(self.iou().nanmean())

    def accuracy(self) -> float:
        """Share of the valid pixels predicted right (NaN where there are none)."""
        return float(self.counts.diagonal().sum().double() / self.counts.sum().double())


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

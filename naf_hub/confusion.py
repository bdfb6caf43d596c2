"""Confusion of classes over a whole data set, never means over pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


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

    def sparse(self) -> list[list[int]]:
        """What is not zero: row, column and count."""
        return [[*place, int(self.counts[tuple(place)])] for place in self.counts.nonzero().tolist()]

    def add_sparse(self, counts: Sequence[Sequence[int]]) -> None:
        """Add what :meth:`sparse` gave."""
        for row, column, count in counts:
            self.counts[row, column] += count

    def iou(self) -> Tensor:
        """(K,) float64 TP / (TP + FP + FN); NaN for a class absent from targets and predictions."""
        hits = self.counts.diagonal().double()
        union = (self.counts.sum(0) + self.counts.sum(1)).double() - hits
        return torch.where(union > 0, hits / union, torch.nan)

    def recall(self) -> Tensor:
        """(K,) float64 TP / (TP + FN); NaN for a class absent from targets."""
        return self.counts.diagonal().double() / self.counts.sum(1).double()

    def mean_iou(self) -> float:
        """Mean of :meth:`iou` over the classes that occur in targets or predictions."""
        return float(self.iou().nanmean())

    def accuracy(self) -> float:
        """Share of the valid pixels predicted right (NaN where there are none)."""
        return float(self.counts.diagonal().sum().double() / self.counts.sum().double())

    def iou_by_name(self, names: Sequence[str]) -> dict[str, float | None]:
        """Percent of :meth:`iou` by the name of the class; ``None`` where it is NaN."""
        return {name: None if v != v else 100 * v for name, v in zip(names, self.iou().tolist(), strict=True)}


def class_table(title: str, names: Sequence[str], columns: Mapping[str, Mapping[str, float | None]]) -> str:
    """A line for each class under ``title``, with its percent in each column; ``columns`` by their headings."""
    wide = max(map(len, names))
    room = {label: max(4, len(label)) for label in columns}
    lines = [title, "  ".join([" " * wide, *(f"{label:>{room[label]}}" for label in columns)])]
    for name in names:
        shares = {label: column[name] for label, column in columns.items()}
        cells = ("-" if share is None else f"{share:.1f}" for share in shares.values())
        lines.append("  ".join([f"{name:{wide}}", *map(str.rjust, cells, room.values())]))
    return "\n".join(lines)

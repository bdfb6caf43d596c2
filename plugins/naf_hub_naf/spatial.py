"""Scores that depend on the distance of pixel and cell: weighted instead of rotary encoding (NAF, arXiv 2511.18452,
table 7), or lowered beside it."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DistanceWeight(nn.Module):
    """``exp(-d^2 / (2 sigma^2))`` with a learnable sigma, multiplied onto the scores before the softmax.

    The paper states neither the unit of the distance nor the start of sigma. Here d is measured from the
    pixel's centre to the cell's centre in low-resolution cells, and sigma starts at ``sigma`` cells.

    Args:
        metric: ``"gaussian"`` (Euclidean distance) or ``"manhattan"`` (sum of absolute differences).
        sigma: start value in cells.
    """

    def __init__(self, metric: str, sigma: float) -> None:
        super().__init__()
        self.metric = metric
        self.sigma = nn.Parameter(torch.tensor(float(sigma)))

    def forward(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Weights from vertical (ny, Ty, Uy) and horizontal (nx, Tx, Ux) offsets: (ny, nx, Ty*Tx, Uy*Ux)."""
        weights = self.between(rows[:, None, :, None, :, None], columns[None, :, None, :, None, :])
        return weights.flatten(4, 5).flatten(2, 3)

    def between(self, dy: Tensor, dx: Tensor) -> Tensor:
        """Weights from vertical and horizontal offsets that broadcast."""
        squared = dy.square() + dx.square() if self.metric == "gaussian" else (dy.abs() + dx.abs()).square()
        sigma = self.sigma.to(squared.dtype)
        return torch.exp(-squared / (2 * sigma.square()))


def decay(offsets: Tensor, locality: float) -> Tensor:
    """The logarithm of a Gaussian of one axis' offsets in cells: what is added to the scores of that axis."""
    return offsets.square() / (-2 * locality**2)

"""What a denoiser is trained by: absolute and squared error, and a small structural similarity (NAF's code)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .likeness import similarity


def box_ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean structural similarity of (B, 3, H, W) over windows of 3 x 3 that weigh alike.

    Borders are padded by zeros, which count.
    """
    return similarity(prediction, target, lambda x: F.avg_pool2d(x, 3, stride=1, padding=1)).mean()


def loss_terms(
    prediction: Tensor, target: Tensor, l1: float = 1.0, l2: float = 5.0, ssim: float = 0.2
) -> dict[str, Tensor]:
    """The terms of the loss, each times its weight: ``l1``, ``l2`` and ``ssim`` (one minus similarity)."""
    return {
        "l1": l1 * F.l1_loss(prediction, target),
        "l2": l2 * F.mse_loss(prediction, target),
        "ssim": ssim * (1 - box_ssim(prediction, target)),
    }


def restoration_loss(
    prediction: Tensor, target: Tensor, l1: float = 1.0, l2: float = 5.0, ssim: float = 0.2
) -> Tensor:
    """Sum of :func:`loss_terms`."""
    return torch.stack(list(loss_terms(prediction, target, l1, l2, ssim).values())).sum()

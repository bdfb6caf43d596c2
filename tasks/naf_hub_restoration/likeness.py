"""PSNR and SSIM, as the code of NAF defines them and as scikit-image does: they differ.

All take predictions and targets (B, 3, H, W) with targets in [0, 1]; predictions are clamped to [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.precision import working_dtype

C1, C2 = 0.01**2, 0.03**2
SKIMAGE_WINDOW = 7
PAPER_WINDOW, PAPER_SIGMA = 11, 11 / 6


def similarity(
    prediction: Tensor, target: Tensor, average: Callable[[Tensor], Tensor], correction: float = 1.0
) -> Tensor:
    """The map of structural similarity (Wang et al. 2004) under a local average.

    Args:
        average: of a map, window by window.
        correction: factor on variances and covariance.
    """
    mean_p, mean_t = average(prediction), average(target)
    var_p = correction * (average(prediction.square()) - mean_p.square())
    var_t = correction * (average(target.square()) - mean_t.square())
    covariance = correction * (average(prediction * target) - mean_p * mean_t)
    return ((2 * mean_p * mean_t + C1) * (2 * covariance + C2)) / (
        (mean_p.square() + mean_t.square() + C1) * (var_p + var_t + C2)
    )


def psnr(prediction: Tensor, target: Tensor) -> float:
    """Decibels of the mean squared error of the whole batch; infinite where there is none.

    The paper's code takes it of batches of two; of one image it is scikit-image's ``peak_signal_noise_ratio``.
    """
    error = float(F.mse_loss(*_ready(prediction, target)))
    return -10 * math.log10(error) if error else math.inf


def paper_ssim(prediction: Tensor, target: Tensor) -> float:
    """Mean over 11 x 11 Gaussian windows of sigma 11/6, with zeros beyond borders and population variances."""
    prediction, target = _ready(prediction, target)
    line = gaussian_line(PAPER_WINDOW, PAPER_SIGMA).to(prediction)
    channels = prediction.shape[1]
    window = (line[:, None] * line).expand(channels, 1, -1, -1)
    return float(
        similarity(
            prediction, target, lambda x: F.conv2d(x, window, padding=PAPER_WINDOW // 2, groups=channels)
        ).mean()
    )


def skimage_ssim(prediction: Tensor, target: Tensor) -> float | None:
    """Mean over images of what ``skimage.metrics.structural_similarity(channel_axis=0, data_range=1)`` gives.

    Windows of 7 x 7 that weigh alike and lie within the image, sample variances. ``None`` where a side is under 7.
    """
    if min(target.shape[-2:]) < SKIMAGE_WINDOW:
        return None
    count = SKIMAGE_WINDOW**2
    prediction, target = (t.double() for t in _ready(prediction, target))
    found = similarity(
        prediction, target, lambda x: F.avg_pool2d(x, SKIMAGE_WINDOW, stride=1), count / (count - 1)
    )
    return float(found.mean())


def gaussian_line(size: int, sigma: float) -> Tensor:
    """(size,) values of a Gaussian around the middle, of sum 1."""
    offset = torch.arange(size) - size // 2
    values = torch.exp(-offset.square() / (2 * sigma**2))
    return values / values.sum()


def _ready(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    dtype = working_dtype(target.dtype)
    return prediction.to(dtype).clamp(0, 1), target.to(dtype)

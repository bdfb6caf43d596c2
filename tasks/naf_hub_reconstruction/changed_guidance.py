"""Guidance that looks otherwise and shows the same: what an upsampler should see through.

Draws come of torch's global generator, which a run sets for each step.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LUMA = (0.299, 0.587, 0.114)
# Of a blur of 5 pixels a side.
LEAST_SIGMA, LARGEST_SIGMA = 0.3, 1.5
NOISE = 0.03
LEVELS = 31  # of a channel of 5 bits


def blurred_guidance(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1], blurred and with noise, as JAFAR's (arXiv 2506.11136) consistency has them."""
    return (_blur(images) + NOISE * torch.randn_like(images)).clamp(0, 1)


def recoloured(images: Tensor) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] after changes drawn for the batch, by AnyUp's (arXiv 2510.12764) shares: jitter
    of brightness, contrast and saturation, grey, blur, coarse levels, solarised, inverted, noise. Its JPEG, hue,
    equalisation and sharpening are left out."""
    if _happens(0.5):
        images = images * _near_one(0.2)
        images = _mixed(images, images.mean((1, 2, 3), keepdim=True), _near_one(0.2))
        images = _mixed(images, _grey(images), _near_one(0.3)).clamp(0, 1)
    if _happens(0.1):
        images = _grey(images).expand_as(images)
    if _happens(0.35):
        images = _blur(images)
    if _happens(0.1):
        images = (images * LEVELS).round() / LEVELS
    if _happens(0.05):
        images = torch.where(images > 0.9, 1 - images, images)
    if _happens(0.02):
        images = 1 - images
    if _happens(0.6):
        images = images + NOISE * torch.randn_like(images)
    return images.clamp(0, 1)


def _happens(share: float) -> bool:
    return float(torch.rand(())) < share


def _near_one(reach: float) -> float:
    return 1 + reach * (2 * float(torch.rand(())) - 1)


def _mixed(images: Tensor, other: Tensor, share: float) -> Tensor:
    return other + share * (images - other)


def _grey(images: Tensor) -> Tensor:
    return torch.einsum("bchw,c->bhw", images, images.new_tensor(LUMA))[:, None]


def _blur(images: Tensor) -> Tensor:
    sigma = LEAST_SIGMA + (LARGEST_SIGMA - LEAST_SIGMA) * float(torch.rand(()))
    at = torch.arange(-2, 3, dtype=images.dtype, device=images.device)
    kernel = torch.softmax(-at.square() / (2 * sigma**2), 0).expand(3, 1, 1, 5)
    padded = F.pad(images, (2, 2, 2, 2), mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)

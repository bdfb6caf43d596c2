"""Masks as labels on the grid of features, and back."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor


def first_labels(mask: np.ndarray, grid: tuple[int, int]) -> Tensor:
    """One-hot labels (K, h, w) of a mask (H, W) brought to ``grid`` by the nearest pixel.

    K is 1 plus the largest number that is left there: an object too small for the grid has no channel.
    """
    small = np.asarray(Image.fromarray(mask).resize((grid[1], grid[0]), Image.Resampling.NEAREST))
    return F.one_hot(torch.from_numpy(small.astype(np.int64))).permute(2, 0, 1).float()


def mask_of(labels: Tensor, patch: int, factor: int, size: tuple[int, int]) -> np.ndarray:
    """Mask (H, W) uint8 of soft labels (K, h, w): the channel that is largest once each spans 0 to 1.

    Args:
        labels: soft labels of the background and the objects.
        patch, factor: they are enlarged by ``patch / factor``, bilinearly, to the frame as the backbone sees it.
        size: (H, W) of the result, whose pixels take the nearest.
    """
    enlarged = [max(1, side * patch // factor) for side in labels.shape[1:]]
    wide = F.interpolate(labels[None], enlarged, mode="bilinear")[0]
    low, high = wide.amin((1, 2), keepdim=True), wide.amax((1, 2), keepdim=True)
    # A channel that is the same everywhere has no span and stays as it is.
    spanned = torch.where(high > low, (wide - low) / (high - low), wide)
    mask = spanned.argmax(0).to(torch.uint8).cpu().numpy()
    return np.asarray(Image.fromarray(mask).resize((size[1], size[0]), Image.Resampling.NEAREST))

"""Linear maps of features by channel group: what commutes with upsampling where a method promises ``linear_groups``."""

from __future__ import annotations

import torch
from torch import Tensor


def project_groups(features: Tensor, weight: Tensor, groups: int) -> Tensor:
    """Projections (B, groups * K, h, w) of each channel group by itself, group after group.

    Args:
        features: (B, C, h, w).
        weight: (K, C).
        groups: how many contiguous groups C is cut into, as ``torch.tensor_split`` cuts. The K maps of all groups
            sum to the projection of the whole.
    """
    pairs = zip(features.tensor_split(groups, 1), weight.tensor_split(groups, 1), strict=True)
    return torch.cat([torch.einsum("bchw,kc->bkhw", part, rows) for part, rows in pairs], 1)

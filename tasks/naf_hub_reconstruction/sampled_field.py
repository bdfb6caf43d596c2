"""A conditional random field on some points of a map: what is near and of like colour should have like features."""

from __future__ import annotations

import torch
from torch import Tensor

# Of FeatUp (arXiv 2403.10516), for distances in shares of the image and colours by ImageNet's deviation.
POINTS = 1000
ALIKE, ALIKE_DISTANCE, ALIKE_COLOUR = 10.0, 0.1, 0.15
NEAR, NEAR_DISTANCE = 3.0, 0.005


def sampled_field(image: Tensor, maps: Tensor, directions: Tensor | None = None) -> Tensor:
    """Mean squared distance of the features of random points, weighted by how near and alike the points are.

    Args:
        image: (B, 3, H, W), normalised by ImageNet's mean and deviation.
        maps: (B, C, H, W) features.
        directions: (C, D) that distances of features are measured in; ``None`` takes the features themselves.
    """
    size = torch.tensor(image.shape[-2:], device=maps.device)
    places = (torch.rand(POINTS, 2, device=maps.device) * size).long()
    rows, columns = places.unbind(1)
    features = maps[:, :, rows, columns]
    if directions is not None:
        features = torch.einsum("bcp,cd->bdp", features, directions)
    away = _apart((places / size).mT)
    colours = _apart(image[:, :, rows, columns])
    alike = ALIKE * torch.exp(-away / (2 * ALIKE_DISTANCE) - colours / (2 * ALIKE_COLOUR))
    near = NEAR * torch.exp(-away / (2 * NEAR_DISTANCE))
    return (_apart(features) * (alike + near)).mean()


def _apart(points: Tensor) -> Tensor:
    """Squared distances (..., P, P) of points (..., D, P), without a tensor of all their differences."""
    lengths = points.square().sum(-2)
    return lengths[..., :, None] + lengths[..., None, :] - 2 * points.mT @ points

"""Nearest features: which cells of one map are most like given vectors, by cosine similarity."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.budget import working_memory
from naf_hub.parts.pieces import split

# Distances below this are taken for it, so that the ratio of two of them exists (as Probe3D does).
_LEAST_DISTANCE = 1e-9


class Nearest(NamedTuple):
    """What was found for N vectors.

    Attributes:
        cells: (N,) numbers of the most similar cells; of equal ones the first.
        weights: (N,) ``1 - d1 / d2`` of the cosine distances to that cell and to the next: 0 where two are as
            near, towards 1 where only one is.
    """

    cells: Tensor
    weights: Tensor


def find_nearest(vectors: Tensor, target: Tensor) -> Nearest:
    """The cells of a map that are most like given vectors; all similarities are never held at once.

    Args:
        vectors: (C, N).
        target: (C, M) vectors of at least two cells.
    """
    asked, offered = (F.normalize(x.detach().float(), dim=0) for x in (vectors, target))
    few = working_memory(None, offered.device.type) // (2 * offered.shape[1] * offered.element_size())
    cells, weights = [], []
    for start, stop in split(asked.shape[1], few):
        likeness = asked[:, start:stop].T @ offered
        best, cell = likeness.max(dim=1)
        next_best = likeness.scatter_(1, cell[:, None], -torch.inf).amax(dim=1)
        near, far = ((1 - value).clamp(min=_LEAST_DISTANCE) for value in (best, next_best))
        cells.append(cell)
        weights.append(1 - near / far)
    return Nearest(torch.cat(cells), torch.cat(weights))


def surest(nearest: Nearest, count: int) -> Tensor:
    """Positions of the ``count`` largest weights (all, if fewer), falling; of equal ones the first comes first."""
    return nearest.weights.sort(descending=True, stable=True).indices[:count]

"""Proxy attention: which cells belong together is asked of other features, what they hold of CLIP.

ProxyCLIP (Lan et al., ECCV 2024, section 3.2). M positions would need an M x M similarity, 268 million numbers at
128 x 128; here rows of it are made, used and forgotten.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.budget import working_memory
from naf_hub.parts.pieces import split

COPIES = 4
"""Numbers for each similarity of a piece: itself, its softmax, the mask, what products need."""


def attend_by_proxy(
    attention: nn.MultiheadAttention,
    tokens: Tensor,
    grid: tuple[int, int],
    features: Tensor,
    beta: float,
    gamma: float,
    memory: int | None = None,
) -> Tensor:
    """What an attention layer gives where other features say who attends to whom; the same for each head.

    Args:
        attention: of the last block, batch first; its queries and keys are not used.
        tokens: (B, 1 + r * c, D), layer-normed, the class token first; it is left out.
        grid: (r, c).
        features: (B, C, H, W).
        beta, gamma: see :func:`mix_by_similarity`.
        memory: bytes for similarities; default what suits the device.

    Returns:
        (B, H * W, D), behind the output projection. No residual is added.
    """
    value = slice(2 * attention.embed_dim, None)
    assert attention.in_proj_weight is not None
    assert attention.in_proj_bias is not None
    values = F.linear(tokens[:, 1:], attention.in_proj_weight[value], attention.in_proj_bias[value])
    values = F.interpolate(values.mT.unflatten(-1, grid), features.shape[-2:], mode="bilinear")
    return attention.out_proj(mix_by_similarity(features, values.flatten(2).mT, beta, gamma, memory))


def mix_by_similarity(
    features: Tensor, values: Tensor, beta: float, gamma: float, memory: int | None = None
) -> Tensor:
    """Averages of values, weighted by the softmax of how similar the features of their positions are.

    S is the cosine similarity of each position with each. Weights are the softmax of ``gamma * (S - beta * mean(S))``
    over those positions where that is not negative, and the position itself, which keeps rows from being empty where
    the mean is above 1 / beta. As published, the mean is over the whole batch, so that images of one batch depend on
    each other.

    Args:
        features: (B, C, H, W).
        values: (B, M, D), M = H * W.
        beta: share of the mean that counts as no similarity.
        gamma: sharpness.
        memory: bytes for similarities; default what suits the device. The result does not depend on it.

    Returns:
        (B, M, D).
    """
    unit = F.normalize(features.flatten(2), dim=1)
    # The mean of all products is the product of the means.
    floor = beta * unit.mean(-1).square().sum(1).mean()
    batch, positions, _ = values.shape
    row = COPIES * unit.element_size() * batch * positions
    mixed = torch.empty_like(values)
    for start, stop in split(positions, working_memory(memory, unit.device.type) // row):
        similarity = unit[:, :, start:stop].mT @ unit
        similarity.sub_(floor).mul_(gamma)
        itself = similarity.diagonal(start, 1, 2)
        kept = itself.clone()
        similarity.masked_fill_(similarity < 0, -torch.inf)
        itself.copy_(kept)
        mixed[:, start:stop] = similarity.softmax(-1) @ values
    return mixed

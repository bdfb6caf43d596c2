"""Weights as a pure function of their names, with which full-size models of others were recorded; see the README."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

# By the last part of the name: the range of the values.
RANGES = {"basis": (-3.0, 3.0), "biases": (-1.5, 1.5)}
WIDE = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")
VECTORS = {
    "gamma": (0.2, 0.8),
    "weight": (0.6, 1.4), "bias": (-0.2, 0.2), "in_proj_bias": (-0.2, 0.2), "running_mean": (-0.2, 0.2),
    "running_var": (0.5, 1.5), "num_batches_tracked": (1.0, 1.0),
}  # fmt: skip


def uniform(name: str, count: int) -> np.ndarray:
    """``count`` numbers in [0, 1) that depend on the name alone."""
    x = np.arange(count, dtype=np.uint32)  # which wraps, as the formula does
    x *= np.uint32(2654435761)
    x += np.uint32(zlib.crc32(name.encode()))
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x ^= x >> np.uint32(shift)
        x *= np.uint32(factor)
    x ^= x >> np.uint32(16)
    return x / 2**32


def formula_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    leaf, count = name.rpartition(".")[2], math.prod(shape)
    if leaf == "freqs":  # near what it starts from
        quarter = shape[1] // 4
        turns = 100.0 ** (-np.arange(quarter) / (quarter - 1))
        still = np.zeros(2 * quarter)
        start = 2 * math.pi * np.stack([np.r_[turns, turns, still], np.r_[still, turns, turns]]).ravel()
        values = start * (0.95 + 0.1 * uniform(name, count)) - 0.1 + 0.2 * uniform(f"{name}#2", count)
    else:
        if leaf in RANGES:
            low, high = RANGES[leaf]
        elif len(shape) > 1:
            high = (3.0 if leaf in WIDE else 1.5) / math.sqrt(math.prod(shape[1:]))
            low = -high
        else:
            low, high = VECTORS[leaf]
        values = low + (high - low) * uniform(name, count)
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def formula_state(like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Formula weights in the names and shapes of a state dict."""
    return {name: formula_tensor(name, tuple(tensor.shape)) for name, tensor in like.items()}

"""Depth from the outputs of a head, and Probe3D's losses on it (El Banani et al., CVPR 2024)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

BINS = 256
READ_OUTS = ("linear", "softmax", "sigmoid", "regression")
STRIDES = (1, 2, 4, 6)
EPS = 1e-3
# The square root of the scale-invariant loss has no slope at 0.
_SMALLEST = 1e-10


@dataclasses.dataclass(frozen=True)
class ReadOut:
    """Turns outputs of a head into metres.

    Attributes:
        kind: ``"linear"``, ``"softmax"`` and ``"sigmoid"`` average 256 depths, evenly spaced from ``nearest`` to
            ``farthest``, weighted by relu(z) + 0.1, exp(z) or sigmoid(z); ``"regression"`` puts sigmoid(z) of a single
            output between the two.
        nearest, farthest: metres.
    """

    kind: str = "linear"
    nearest: float = 1e-3
    farthest: float = 10.0

    def __post_init__(self) -> None:
        if self.kind not in READ_OUTS:
            raise ValueError(f"read_out must be one of {', '.join(READ_OUTS)}, got {self.kind!r}")
        if not 0 < self.nearest < self.farthest < float("inf"):
            raise ValueError(f"max_depth must be more than {self.nearest} m, got {self.farthest}")

    @property
    def outputs(self) -> int:
        """Channels of the head."""
        return 1 if self.kind == "regression" else BINS

    def __call__(self, scores: Tensor) -> Tensor:
        """Depth (B, ...) in metres of outputs (B, K, ...)."""
        if self.kind == "regression":
            return self.nearest + scores[:, 0].sigmoid() * (self.farthest - self.nearest)
        if self.kind == "linear":
            weights = scores.relu() + 0.1
        elif self.kind == "sigmoid":
            weights = scores.sigmoid()
        else:
            weights = scores.softmax(1)
        depths = torch.linspace(self.nearest, self.farthest, BINS, device=scores.device, dtype=scores.dtype)
        return torch.einsum("bk...,k->b...", weights, depths) / weights.sum(1)


def scale_invariant_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """sqrt(mean(g^2) - 0.85 mean(g)^2) of g = ln(prediction) - ln(target), both + 0.001, where the target is over 0.

    The means run over all valid pixels of the batch, of which there must be one.
    """
    valid = target > 0
    g = (prediction[valid] + EPS).log() - (target[valid] + EPS).log()
    return (g.square().mean() - 0.85 * g.mean().square()).clamp(min=_SMALLEST).sqrt()


def gradient_loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute difference of ln(prediction) - ln(target) between pixels two apart, summed over four scales.

    Depths are (B, H, W), valid where the target is over 0. A scale takes every 1st, 2nd, 4th or 6th row and column; the
    sum of its differences down and across, both ends valid, is divided by its number of valid pixels.
    """
    total = prediction.new_zeros(())
    for stride in STRIDES:
        ours, theirs = prediction[:, ::stride, ::stride], target[:, ::stride, ::stride]
        valid = theirs > 0
        count = valid.sum()
        if not count:
            continue
        r = torch.where(valid, (ours + EPS).log() - (theirs.clamp(min=0) + EPS).log(), 0.0)
        down = (r[:, :-2] - r[:, 2:]).abs() * (valid[:, :-2] & valid[:, 2:])
        across = (r[:, :, :-2] - r[:, :, 2:]).abs() * (valid[:, :, :-2] & valid[:, :, 2:])
        total = total + (down.sum() + across.sum()) / count
    return total


@dataclasses.dataclass(frozen=True)
class DepthLoss:
    """10 times the scale-invariant loss and half the gradient loss, of what a head's outputs read as.

    Single pixels, without neighbours, have no gradients: their loss is the scale-invariant one alone.
    """

    read: ReadOut

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a continued run must share."""
        return {"read-out": dataclasses.asdict(self.read)}

    def __call__(self, scores: Tensor, target: Tensor) -> Tensor | None:
        """Loss of outputs (B, K, ...) for depths (B, ...) in metres; ``None`` where none is over 0."""
        if not bool((target > 0).any()):
            return None
        depth = self.read(scores)
        loss = 10 * scale_invariant_loss(depth, target)
        return loss + 0.5 * gradient_loss(depth, target) if target.ndim == 3 else loss

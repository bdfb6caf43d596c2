"""Fit the kernel to one image, so that it turns the shrunk image back into the image (arXiv 2511.16301)."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from .splats import SplatKernel, Splats

# Standard deviations that every cell starts with: pixels, and colours in [0, 1].
WIDTH, COLOUR = 16.0, 0.12
# Of the learning rate, at each step: to 1e-8 of the first in 5100 steps, of which the published code takes 51.
DECAY = 1e-8 ** (1 / 5100)


def splats_of(raw: Tensor) -> Splats:
    """The Gaussians of raw parameters (4, h, w)."""
    across, along, angle, colour = raw
    return Splats(across.exp(), along.exp(), math.pi * angle.tanh(), colour.exp())


def start(grid: tuple[int, int], device: torch.device) -> Tensor:
    """Raw parameters (4, h, w) before the first step; float64, so that rounding does not turn what is round."""
    values = torch.tensor([math.log(WIDTH), math.log(WIDTH), 0.0, math.log(COLOUR)], dtype=torch.float64)
    return values[:, None, None].repeat(1, *grid).to(device)


def backward(kernel: SplatKernel, raw: Tensor, shrunk: Tensor, memory: int) -> float:
    """Add the gradient of one step to that of ``raw``, range by range of pixels, and return the loss."""
    splats = splats_of(raw)
    quadratic, reaches = splats.quadratic(), kernel.reaches(splats)
    leaf = quadratic.detach().requires_grad_()
    total = torch.zeros((), dtype=torch.float64, device=raw.device)
    rows, cols = kernel.ranges(len(shrunk), memory)
    for y in rows:
        for x in cols:
            found = kernel.mean(leaf, reaches, shrunk, y, x)
            loss = (found - kernel.image[:, slice(*y), slice(*x)]).abs().sum() / kernel.image.numel()
            loss.backward()
            total += loss.detach()
    quadratic.backward(leaf.grad)
    return float(total)


def fit_splats(
    kernel: SplatKernel, shrunk: Tensor, steps: Iterable[int], learning_rate: float, memory: int
) -> tuple[Splats, list[float]]:
    """The Gaussians that rebuild the kernel's image best, and the loss before each step.

    Args:
        kernel: of the image.
        shrunk: (3, h, w), the image in the grid's size.
        steps: their numbers, from 0 on.
        learning_rate: of Adam, at the first step.
        memory: bytes to keep to, as far as single tiles allow.
    """
    raw = start(kernel.grid, shrunk.device).requires_grad_()
    optimizer = torch.optim.Adam([raw], lr=learning_rate)
    losses = []
    for step in steps:
        optimizer.param_groups[0]["lr"] = learning_rate * DECAY**step
        optimizer.zero_grad()
        losses.append(backward(kernel, raw, shrunk, memory))
        optimizer.step()
    return splats_of(raw.detach()), losses

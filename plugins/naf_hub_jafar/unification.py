"""AnyUp's layer that takes any number of feature channels (arXiv 2510.12764, section 3.2), as its weights know it."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.pieces import Range, assemble, split


class FeatureUnification(nn.Module):
    """Features of C channels, any C, to ``filters`` maps, by filters that all channels share.

    Each filter meets each channel alone, as an average over the taps inside the map. The C * M responses, channel by
    channel, are then read again in M runs of C: a softmax compares the runs and the mean goes along them. That is not
    the softmax over filters and mean over channels that the paper writes (the two agree for C = 1 only), and it makes
    the result depend on the order of the channels; but it is what the published code does, and what its weights
    were trained with.

    Args:
        filters: M.
        kernel_size: side of the filters, odd.
        gaussian_derivatives: start from derivatives of Gaussians instead of noise.
    """

    def __init__(self, filters: int, kernel_size: int, gaussian_derivatives: bool = False) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"kernel_size_lfu must be odd and positive, got {kernel_size}")
        initial = torch.randn(filters, 1, kernel_size, kernel_size)
        if gaussian_derivatives:
            initial = derivatives_of_gaussians(filters, kernel_size)
        self.basis = nn.Parameter(initial)

    def forward(self, features: Tensor, memory: int | None = None) -> Tensor:
        """Unify features.

        Args:
            features: (B, C, h, w).
            memory: bytes to keep to beside the result, as far as single rows allow; default all rows at once.

        Returns:
            (B, M, h, w).
        """
        batch, channels, height, width = features.shape
        filters, _, side, _ = self.basis.shape
        reach = side // 2
        padded = F.pad(features, (reach,) * 4)
        taps = self._taps(height)[:, None] * self._taps(width)

        def piece(_: Range, rows: Range, __: Range) -> Tensor:
            strip = padded[:, :, rows[0] : rows[1] + 2 * reach].flatten(0, 1)[:, None]
            responses = F.conv2d(strip, self.basis) / taps[slice(*rows)]
            runs = responses.reshape(batch, channels * filters, *responses.shape[2:]).unflatten(
                1, (filters, channels)
            )
            return runs.softmax(dim=1).mean(dim=2)

        row_bytes = 3 * batch * channels * filters * width * features.element_size()
        rows = None if memory is None else split(height, memory // row_bytes)
        return assemble(piece, (batch, filters, height, width), features, (self.basis,), rows=rows)

    def _taps(self, size: int) -> Tensor:
        """How many taps of a filter lie inside, along an axis: (size,)."""
        side = self.basis.shape[-1]
        position, reach = torch.arange(size, device=self.basis.device), side // 2
        return (side - (reach - position).clamp(min=0) - (position + reach + 1 - size).clamp(min=0)).to(
            self.basis.dtype
        )


def derivatives_of_gaussians(count: int, side: int) -> Tensor:
    """The first ``count`` products of a vertical and a horizontal derivative of a Gaussian: (count, 1, side, side).

    By total order, vertical ones first; the standard deviation is ``(side // 2) / 1.645`` pixels. Derivatives are
    taken of the coordinate in standard deviations, so that high orders do not fade.
    """
    sigma = max(side // 2, 1) / 1.645
    at = (torch.arange(side, dtype=torch.float64) - side // 2) / sigma
    gaussian = torch.exp(-at.square() / 2) / (sigma * math.sqrt(2 * math.pi))
    hermite = [torch.ones_like(at), at]  # He_n of the probabilists
    kernels: list[Tensor] = []
    for order in range(count):
        if order >= len(hermite):
            hermite.append(at * hermite[-1] - (order - 1) * hermite[-2])
        for across in range(order + 1):
            sign = (-1) ** order
            kernels.append(sign * torch.outer(gaussian * hermite[order - across], gaussian * hermite[across]))
        if len(kernels) >= count:
            break
    return torch.stack(kernels[:count])[:, None].float()

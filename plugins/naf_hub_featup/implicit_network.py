"""The network that FeatUp fits to one image: pointwise, on colours and positions (arXiv 2403.10516, section 3.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

SIGNALS = 5  # row, column, red, green, blue
DROPOUT = 0.2


class MinMax(nn.Module):
    """Each colour of an image (B, 3, H, W) brought to [-0.5, 0.5], over all its pixels."""

    def forward(self, image: Tensor) -> Tensor:
        low, high = image.amin((0, 2, 3), keepdim=True), image.amax((0, 2, 3), keepdim=True)
        return (image - low) / (high - low).clamp_min(1e-4) - 0.5


class FourierFeatures(nn.Module):
    """Sines and cosines of rows, columns and colours at ``n_freqs`` frequencies, with learned phases, and the colours.

    Frequencies are ``exp(linspace(-2, 10))`` radians for coordinates in [-1, 1]; channels go by frequency, then by
    signal. The phases are read in another order than they are kept in, as published.
    """

    def __init__(self, n_freqs: int) -> None:
        super().__init__()
        self.n_freqs = n_freqs
        self.biases = nn.Parameter(torch.randn(2, SIGNALS, n_freqs))

    @property
    def channels(self) -> int:
        """Of the result."""
        return 2 * SIGNALS * self.n_freqs + 3

    def forward(self, colours: Tensor) -> Tensor:
        """(B, 3, H, W) scaled colours -> (B, channels, H, W)."""
        batch, _, height, width = colours.shape
        y, x = (torch.linspace(-1, 1, n, dtype=colours.dtype, device=colours.device) for n in (height, width))
        shape = (batch, 1, height, width)
        signals = torch.cat((y[:, None].expand(shape), x.expand(shape), colours), dim=1)
        freqs = torch.exp(torch.linspace(-2, 10, self.n_freqs, dtype=colours.dtype, device=colours.device))
        turns = (freqs[:, None, None, None] * signals[:, None]).flatten(1, 2)
        sine, cosine = (phase.reshape(-1, 1, 1) for phase in self.biases)
        return torch.cat(((turns + sine).sin(), (turns + cosine).cos(), colours), dim=1)


class ChannelNorm(nn.Module):
    """Layer norm over the channels of each position."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


def implicit_network(dim: int, n_freqs: int) -> nn.Sequential:
    """Image (B, 3, H, W), normalised by ImageNet's mean and deviation, to (B, dim, H, W)."""
    fourier = FourierFeatures(n_freqs)
    return nn.Sequential(
        MinMax(),
        fourier,
        ChannelNorm(fourier.channels),
        nn.Dropout2d(DROPOUT),
        nn.Conv2d(fourier.channels, dim, 1),
        nn.ReLU(),
        nn.Dropout2d(DROPOUT),
        ChannelNorm(dim),
        nn.Conv2d(dim, dim, 1),
        nn.ReLU(),
        nn.Conv2d(dim, dim, 1),
    )

"""CAPI's rotary positions: the coordinates of tokens, and the turning of queries and keys by them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

MAX_FREQUENCY = 7.0  # periods across the image
FREQUENCY_RANGE = 1e4  # highest over lowest frequency


def edge_coordinates(count: int, like: Tensor) -> Tensor:
    """(count, 2): points on the border of the unit square, ``count / 4`` a side, walking round it."""
    step = torch.arange(count // 4, device=like.device, dtype=like.dtype) / (count // 4)
    zero, one = torch.zeros_like(step), torch.ones_like(step)
    sides = ((step, zero), (one, step), (1 - step, one), (zero, 1 - step))
    return torch.cat([torch.stack(side, dim=-1) for side in sides])


def token_coordinates(registers: int, grid: tuple[int, int], like: Tensor) -> Tensor:
    """(registers + h * w, 2): row and column of every token, each axis from 0 to 1 whatever its length.

    Registers come first, on the border of the box that the patches span: with one row (or column) of patches
    that box is flat.

    Args:
        registers: their number, a multiple of 4.
        grid: (h, w), patches in row-major order.
        like: device and dtype of the result.
    """
    rows, columns = (torch.linspace(0, 1, n, device=like.device, dtype=like.dtype) for n in grid)
    patches = torch.cartesian_prod(rows, columns)
    return torch.cat([edge_coordinates(registers, like) * patches.amax(0), patches])


class Rope(nn.Module):
    """Turns channel pairs of queries and keys by angles that depend on the token's coordinates.

    The frequencies are part of the weights: a buffer ``freqs`` (2, head_dim), rows for the row and the column
    coordinate. Channel j is paired with j + head_dim / 2, and as the first half of the channels holds row frequencies
    and the second half column frequencies, the two partners turn by *different* angles. So this is no rotation,
    and must not be made one: the published weights were trained with it.
    """

    freqs: Tensor

    def __init__(self, head_dim: int) -> None:
        super().__init__()
        exponents = torch.linspace(0, -1, head_dim // 4)
        frequencies = 2 * torch.pi * MAX_FREQUENCY * FREQUENCY_RANGE**exponents
        frequencies = torch.cat([frequencies, frequencies])
        zero = torch.zeros_like(frequencies)
        self.register_buffer(
            "freqs", torch.stack([torch.cat([frequencies, zero]), torch.cat([zero, frequencies])])
        )

    def forward(self, coordinates: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (N, head_dim) for coordinates (N, 2), in their dtype.

        The product is spelled out because autocast would run a matrix product in half precision, too coarse for
        angles of up to seven turns.
        """
        freqs = self.freqs.to(coordinates.dtype)
        angles = coordinates[:, :1] * freqs[0] + coordinates[:, 1:] * freqs[1]
        return angles.cos(), angles.sin()


def turn(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Queries or keys (B, heads, N, head_dim), turned; computed in the precision of the angles."""
    first, second = x.chunk(2, dim=-1)
    return (x * cosines + torch.cat([-second, first], dim=-1) * sines).to(x.dtype)

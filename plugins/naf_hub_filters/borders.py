"""Which pixel stands in for one beyond the border."""

from __future__ import annotations

import torch
from torch import Tensor

from naf_hub.parts.sizes import number

BORDERS = ("reflect101", "symmetric")


def positions(start: int, stop: int, size: int, radius: int, border: str = "reflect101") -> Tensor:
    """Pixel indices in ``[0, size)`` for ``start .. stop - 1``, mirrored beyond the borders, on the CPU.

    ``"reflect101"`` mirrors about the edge pixel (``c b | a b c``), ``"symmetric"`` about its outer side
    (``b a | a b c``). On an axis too short to mirror ``radius`` pixels the edge pixel is repeated instead.
    """
    repeat = 1 if border == "symmetric" else 0
    last = number(size - 1)
    index = torch.arange(start, stop)
    mirrored = torch.where(index < 0, -index - repeat, index)
    mirrored = torch.where(index > last, 2 * last - index + repeat, mirrored)
    # As a tensor: a condition on the size would bind a traced graph to one side of it.
    long_enough = last + repeat >= radius
    return torch.minimum(torch.where(long_enough, mirrored, index).clamp(min=0), last)


def take(x: Tensor, rows: Tensor, cols: Tensor) -> Tensor:
    """``x[..., rows, :][..., cols]``."""
    return x.index_select(-2, rows.to(x.device)).index_select(-1, cols.to(x.device))


def pad(x: Tensor, radius: int, border: str = "reflect101") -> Tensor:
    """(B, C, H, W) with ``radius`` pixels more on every side; see :func:`positions`."""
    height, width = x.shape[-2:]
    return take(
        x,
        positions(-radius, height + radius, height, radius, border),
        positions(-radius, width + radius, width, radius, border),
    )

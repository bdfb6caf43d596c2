"""Which pixel stands in for one beyond the border."""

from __future__ import annotations

import torch
from torch import Tensor

BORDERS = ("reflect101", "symmetric")


def positions(start: int, stop: int, size: int, radius: int, border: str = "reflect101") -> list[int]:
    """Pixel indices in ``[0, size)`` for ``start .. stop - 1``, mirrored beyond the borders.

    ``"reflect101"`` mirrors about the edge pixel (``c b | a b c``), ``"symmetric"`` about its outer side
    (``b a | a b c``). On an axis too short to mirror ``radius`` pixels the edge pixel is repeated instead.
    """
    repeat = 1 if border == "symmetric" else 0
    last = size - 1

    def mirror(i: int) -> int:
        if radius < size + repeat:
            i = -i - repeat if i < 0 else 2 * last - i + repeat if i > last else i
        return min(max(i, 0), last)

    return [mirror(i) for i in range(start, stop)]


def take(x: Tensor, rows: list[int], cols: list[int]) -> Tensor:
    """``x[..., rows, :][..., cols]``."""
    x = x.index_select(-2, torch.tensor(rows, device=x.device))
    return x.index_select(-1, torch.tensor(cols, device=x.device))


def pad(x: Tensor, radius: int, border: str = "reflect101") -> Tensor:
    """(B, C, H, W) with ``radius`` pixels more on every side; see :func:`positions`."""
    height, width = x.shape[-2:]
    return take(
        x,
        positions(-radius, height + radius, height, radius, border),
        positions(-radius, width + radius, width, radius, border),
    )

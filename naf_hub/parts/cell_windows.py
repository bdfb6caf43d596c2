"""Weighted sums and products over the k x k cells around each cell, for several outputs a cell.

All outputs of a cell share its window, so that every sum is a small matrix product; windows are views of the map, never
copied out of it.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .pieces import Range
from .precision import without_autocast
from .sizes import are_known, number

BORDERS = ("zeros", "replicate")


def clip(rows: Range, reach: int, height: int) -> Range:
    """The rows up to ``reach`` away from some, as far as the map goes."""
    return max(0, rows[0] - reach), min(height, rows[1] + reach)


def surround(strip: Tensor, rows: Range, reach: int, height: int, border: str = "zeros") -> Tensor:
    """Some rows of a map with ``reach`` cells on every side.

    Args:
        strip: (B, n, W, C), the rows ``clip(rows, reach, height)`` of the map.
        rows: the ones to be surrounded, P of them.
        reach: in cells.
        height: of the map.
        border: what lies beyond the map: ``"zeros"``, or ``"replicate"`` for the nearest cell.

    Returns:
        (B, P + 2 reach, W + 2 reach, C).
    """
    top, bottom = max(0, reach - rows[0]), max(0, rows[1] + reach - height)
    if border == "zeros":
        return F.pad(strip, (0, 0, reach, reach, top, bottom))
    _, count, width, _ = strip.shape
    down = torch.arange(-top, count + bottom, device=strip.device).clamp(min=0)
    across = torch.arange(-reach, width + reach, device=strip.device).clamp(min=0)
    down, across = (
        torch.minimum(found, number(last, strip.device))
        for found, last in ((down, count - 1), (across, width - 1))
    )
    return strip[:, down][:, :, across]


@without_autocast
def weighted_sums(surrounded: Tensor, weights: Tensor) -> Tensor:
    """Sums of the cells in each window.

    Args:
        surrounded: (B, P + k - 1, Q + k - 1, C), see :func:`surround`.
        weights: (B, P, Q, G, n, k, k): of n outputs a cell, for G contiguous groups of channels.

    Returns:
        (B, P, Q, n, C).
    """
    side = weights.shape[-1]
    if not are_known(*surrounded.shape):
        return _sums_by_row(surrounded, weights)
    packed = _pack(weights, side)
    groups: list[Tensor] = []
    for group, channels in enumerate(surrounded.chunk(weights.shape[3], dim=-1)):
        total: Tensor | None = None
        for row, cells in enumerate(_window_rows(channels, side)):
            factors = packed[:, group, :, row]
            total = torch.bmm(factors, cells) if total is None else total.baddbmm_(factors, cells)
        assert total is not None
        groups.append(total)
    return _unpack(groups[0] if len(groups) == 1 else torch.cat(groups, -1), surrounded, side)


@without_autocast
def products(surrounded: Tensor, vectors: Tensor, side: int) -> Tensor:
    """Inner products of vectors with the cells in their windows.

    Args:
        surrounded: (B, P + k - 1, Q + k - 1, D), see :func:`surround`.
        vectors: (B, P, Q, n, D).
        side: k.

    Returns:
        (B, P, Q, n, k, k).
    """
    if not are_known(*surrounded.shape):
        near = _across(surrounded, side).mT
        return torch.stack([vectors @ near.narrow(1, i, vectors.shape[1]) for i in range(side)], dim=-2)
    packed = _pack(vectors, side)
    found = torch.stack([torch.bmm(packed, cells.mT) for cells in _window_rows(surrounded, side)], dim=2)
    return _unpack(found, surrounded, side)


def join_cells(cells: Tensor, scale: int) -> Tensor:
    """(B, P, Q, s * s, C), outputs of a cell row by row, to the map (B, C, s P, s Q)."""
    inside = cells.unflatten(3, (scale, scale))
    return inside.permute(0, 5, 1, 3, 2, 4).flatten(4, 5).flatten(2, 3)


def split_cells(maps: Tensor, scale: int) -> Tensor:
    """(B, s P, s Q, C) to (B, P, Q, s * s, C)."""
    inside = maps.unflatten(1, (-1, scale)).unflatten(3, (-1, scale))
    return inside.transpose(2, 3).flatten(3, 4)


def _window_rows(surrounded: Tensor, side: int) -> Iterator[Tensor]:
    """For each row of the windows a view (N, k, C): windows in the order of the surrounded cells, batch and all.

    Some of them, past the right and the lower border, wrap around; :func:`_unpack` drops those.
    """
    width, cells = surrounded.shape[2], surrounded.flatten(0, 2)
    count = len(cells) - (side - 1) * width
    for row in range(side):
        yield cells[row * width : row * width + count].unfold(0, side, 1).mT


def _across(surrounded: Tensor, side: int) -> Tensor:
    """The cells that each window has in each row: (B, R, Q + k - 1, C) -> (B, R, Q, k, C)."""
    count, device = surrounded.shape[2] - side + 1, surrounded.device
    places = torch.arange(count, device=device)[:, None] + torch.arange(side, device=device)
    return surrounded.index_select(2, places.flatten()).unflatten(2, (count, side))


def _sums_by_row(surrounded: Tensor, weights: Tensor) -> Tensor:
    """:func:`weighted_sums` where sizes are unknown: views of windows that wrap around are nothing that ONNX takes."""
    rows, groups, side = weights.shape[1], weights.shape[3], weights.shape[-1]
    near = _across(surrounded, side).unflatten(-1, (groups, -1)).transpose(3, 4)
    parts = [weights[..., i, :] @ near.narrow(1, i, rows) for i in range(side)]
    return torch.stack(parts).sum(0).transpose(3, 4).flatten(-2)


def _pack(values: Tensor, side: int) -> Tensor:
    """(B, P, Q, ...) in the order of :func:`_window_rows`: (N, ...), zeros for windows that wrap around."""
    beyond = (0, 0) * (values.ndim - 3)
    spread = F.pad(values, (*beyond, 0, side - 1, 0, side - 1)).flatten(0, 2)
    return spread[: len(spread) - _left_out(values.shape[2] + side - 1, side)]


def _unpack(values: Tensor, surrounded: Tensor, side: int) -> Tensor:
    """The inverse of :func:`_pack`."""
    batch, height, width, _ = surrounded.shape
    beyond = (0, 0) * (values.ndim - 1)
    whole = F.pad(values, (*beyond, 0, _left_out(width, side))).unflatten(0, (batch, height, width))
    return whole[:, : height - side + 1, : width - side + 1]


def _left_out(width: int, side: int) -> int:
    """How many of the surrounded cells, at the end, no window begins at."""
    return (side - 1) * (width + 1)

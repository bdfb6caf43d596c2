"""The attention of chosen pixels alone, a window at a time: pixels that see the same cells share them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from naf_hub.parts.pieces import split

from .attention import split_heads
from .spatial import DistanceWeight, decay
from .windows import window_slots

# Points of one window that are worked on together.
MOST = 64


def attend_at(
    points: Tensor,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    heads: int,
    kernel_size: int,
    memory: int,
    weight: DistanceWeight | None = None,
    locality: float | None = None,
) -> Tensor:
    """:meth:`CrossScaleAttention.output <naf_hub_naf.attention.CrossScaleAttention.output>` at some of its pixels.

    Args:
        points: (B, N, 2) int64 (x, y).
        queries, keys, values, heads, kernel_size, weight, locality: as of that class.
        memory: bytes of working memory to keep to, as far as a single point fits.

    Returns:
        (B, D, N) in the dtype of ``values``.
    """
    (batch, height, width, channels), (h, w) = queries.shape, keys.shape[1:3]
    x, y = points.unbind(-1)
    sample = torch.arange(batch, device=points.device)[:, None].expand_as(x).flatten()
    dtype, (values, kept) = values.dtype, split_heads(values.to(queries.dtype), heads)
    keys = (keys * (channels // heads) ** -0.5).reshape(-1, heads, channels // heads)
    values = values.reshape(len(keys), heads, -1)
    x, y = x.flatten(), y.flatten()
    down, along = (_Windows.of(*axis, kernel_size, points.device) for axis in ((h, height), (w, width)))
    groups, place = _share((sample * down.windows + down.which[y]) * along.windows + along.which[x])
    first = groups[:, 0]
    rows, columns = down.slots[y[first]], along.slots[x[first]]  # (groups, slots)
    cells = ((sample[first, None, None] * h + rows[:, :, None]) * w + columns[:, None]).flatten(1)
    size, window = groups.shape[1], cells.shape[1]
    numbers = window * heads * (keys.shape[-1] + values.shape[-1]) + size * heads * (
        4 * window + keys.shape[-1] + values.shape[-1]
    )
    found = []
    for piece in split(len(groups), memory // (numbers * queries.element_size())):
        part = slice(*piece)
        here = groups[part]
        asked = queries[sample[here], y[here], x[here]].unflatten(-1, (heads, -1))
        scores = torch.einsum("gnhd,gkhd->ghnk", asked, keys[cells[part]])
        if weight is not None or locality is not None:
            off_y = _offsets(rows[part], y[here], h, height, scores)[..., :, None]
            off_x = _offsets(columns[part], x[here], w, width, scores)[..., None, :]
            if weight is not None:
                scores = scores * weight.between(off_y, off_x).flatten(2).unsqueeze(1)
            if locality is not None:
                scores = scores + (decay(off_y, locality) + decay(off_x, locality)).flatten(2).unsqueeze(1)
        found.append(torch.einsum("ghnk,gkhd->gnhd", scores.softmax(-1), values[cells[part]]).flatten(0, 1))
    mixed = torch.cat(found)[place].flatten(1)
    mixed = mixed if kept is None else mixed[:, kept]
    return mixed.to(dtype).unflatten(0, (batch, -1)).mT


class _Windows(NamedTuple):
    """Windows along one axis.

    Attributes:
        slots: (size, k) cells of each position.
        which: (size,) numbers of the windows, one for all positions that see the same cells.
        windows: how many there are.
    """

    slots: Tensor
    which: Tensor
    windows: int

    @classmethod
    def of(cls, cells: int, size: int, kernel_size: int, device: torch.device) -> _Windows:
        slots = window_slots(cells, size, kernel_size)
        different, which = np.unique(slots, axis=0, return_inverse=True)
        # NumPy 2.0 alone gives the numbers another dimension.
        numbers = torch.from_numpy(which.reshape(-1))
        return cls(torch.from_numpy(slots).to(device), numbers.to(device), len(different))


def _share(windows: Tensor) -> tuple[Tensor, Tensor]:
    """Points in groups that see one window, so that its cells are gathered once for many of them.

    Args:
        windows: (N,) number of each point's window.

    Returns:
        (groups, n) points, of which a group with fewer repeats its first; and (N,) where each point is among these.
    """
    order = windows.argsort(stable=True)
    counts = windows[order].unique_consecutive(return_counts=True)[1]
    # As many as come to a window in the mean, so that at most about half of the places are repeats.
    size = min(MOST, -(-len(windows) // len(counts)))
    number = torch.arange(len(counts), device=windows.device).repeat_interleave(counts)
    within = torch.arange(len(windows), device=windows.device) - (counts.cumsum(0) - counts)[number]
    parts = (counts + size - 1) // size
    group = (parts.cumsum(0) - parts)[number] + within // size
    groups = order.new_full((int(parts.sum()), size), -1)
    groups[group, within % size] = order
    place = torch.empty_like(order)
    place[order] = group * size + within % size
    return torch.where(groups < 0, groups[:, :1], groups), place


def _offsets(cells: Tensor, positions: Tensor, grid: int, size: int, like: Tensor) -> Tensor:
    """Signed distances (G, n, slots) in cells from the centres of (G, slots) cells to the positions (G, n)."""
    centres = (positions.double() + 0.5) * grid / size - 0.5
    return (centres[:, :, None] - cells[:, None]).to(like)

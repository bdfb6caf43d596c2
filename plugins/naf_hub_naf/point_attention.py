"""The attention of chosen pixels alone: each gathers the cells of its own window, whatever its neighbours need."""

from __future__ import annotations

import torch
from torch import Tensor

from naf_hub.parts.pieces import split

from .attention import split_heads
from .spatial import DistanceWeight, decay
from .windows import window_slots


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
    sample = torch.arange(batch, device=points.device)[:, None].expand_as(x)
    dtype, (values, kept) = values.dtype, split_heads(values.to(queries.dtype), heads)
    keys = (keys * (channels // heads) ** -0.5).reshape(-1, heads, channels // heads)
    values = values.reshape(len(keys), heads, -1)
    asked = queries[sample, y, x].reshape(-1, heads, channels // heads)
    rows, columns = (
        torch.from_numpy(window_slots(cells, size, kernel_size)).to(points.device)[where.flatten()]
        for cells, size, where in ((h, height, y), (w, width, x))
    )  # (B * N, slots)
    cells = (sample.flatten()[:, None, None] * h + rows[:, :, None]) * w + columns[:, None]
    cells = cells.flatten(1)
    numbers = cells.shape[1] * heads * (keys.shape[-1] + values.shape[-1] + 4)
    found = []
    for piece in split(len(cells), memory // (numbers * queries.element_size())):
        part = slice(*piece)
        scores = torch.einsum("nhd,nkhd->nhk", asked[part], keys[cells[part]])
        if weight is not None or locality is not None:
            down = _offsets(rows[part], y.flatten()[part], h, height, scores)[:, :, None]
            along = _offsets(columns[part], x.flatten()[part], w, width, scores)[:, None]
            if weight is not None:
                scores = scores * weight.between(down, along).flatten(1).unsqueeze(1)
            if locality is not None:
                scores = scores + (decay(down, locality) + decay(along, locality)).flatten(1).unsqueeze(1)
        found.append(torch.einsum("nhk,nkhd->nhd", scores.softmax(-1), values[cells[part]]))
    mixed = torch.cat(found).flatten(1)
    mixed = mixed if kept is None else mixed[:, kept]
    return mixed.to(dtype).unflatten(0, (batch, -1)).mT


def _offsets(cells: Tensor, positions: Tensor, grid: int, size: int, like: Tensor) -> Tensor:
    """Signed distance in cells from the centres of (N, slots) cells to the N positions."""
    return ((positions.double() + 0.5) * grid / size - 0.5)[:, None].sub(cells).to(like)

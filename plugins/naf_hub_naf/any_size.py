"""The attention of :mod:`.attention` for a traced graph that leaves the sizes unknown.

Tiles are chosen from the sizes, so there are none here: each row of the output attends to the ``kernel_size`` rows of
cells in its window, whole, and columns outside a pixel's own window are masked. That is more arithmetic, and the
graph runs in one piece, but no size is divided or compared, which compilers would pin.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.sizes import number

from .attention import split_heads
from .spatial import DistanceWeight


def attend_at_any_size(
    queries: Tensor, keys: Tensor, values: Tensor, heads: int, kernel_size: int, weight: DistanceWeight | None
) -> Tensor:
    """:meth:`CrossScaleAttention.output <naf_hub_naf.attention.CrossScaleAttention.output>` of the same operands."""
    batch, height, width, channels = queries.shape
    h, w, dtype = keys.shape[1], keys.shape[2], values.dtype
    values, kept = split_heads(values.to(queries.dtype), heads)
    rows, inside = _window(h, height, kernel_size, queries)
    columns, near = _window(w, width, kernel_size, queries)
    met = (columns[..., None] == torch.arange(w, device=columns.device)) & near[..., None]
    bias = met.sum(1).to(queries.dtype).log().repeat(1, kernel_size)  # -inf for cells outside the window

    def operand(cells: Tensor) -> Tensor:
        """(B, h, w, C) -> (B * H, heads, kernel_size * w, C / heads)."""
        taken = cells.index_select(1, rows.flatten())
        return taken.reshape(batch * height, kernel_size * w, heads, -1).transpose(1, 2)

    own = queries.reshape(batch * height, width, heads, channels // heads).transpose(1, 2)
    other = operand(keys * (channels // heads) ** -0.5)
    if weight is None:
        # A row beyond the window (of a grid smaller than the kernel) is kept out by a channel of its own: as a mask
        # it would be as large as all scores.
        beyond = torch.zeros_like(rows, dtype=queries.dtype).masked_fill(~inside, -torch.inf)
        beyond = beyond[:, None, :, None, None].expand(height, heads, kernel_size, w, 1)
        beyond = beyond.reshape(height, heads, kernel_size * w, 1).repeat(batch, 1, 1, 1)
        own, other = F.pad(own, (0, 1), value=1.0), torch.cat([other, beyond], -1)
        mixed = F.scaled_dot_product_attention(
            own, other, operand(values.flatten(3)), attn_mask=bias[None, None], scale=1.0
        )
    else:
        scores = (own @ other.mT).reshape(batch, height, heads, width, kernel_size * w)
        factor = weight(
            _offsets(rows, h, height)[:, None], _offsets(torch.arange(w).to(rows)[None], w, width)[None]
        )
        beyond = inside[:, None, None, :, None].expand(height, 1, 1, kernel_size, w).flatten(3)
        scores = (scores * factor + bias).masked_fill(~beyond, -torch.inf)
        mixed = scores.softmax(-1).flatten(0, 1) @ operand(values.flatten(3))
    mixed = mixed.transpose(1, 2).reshape(batch, height, width, heads * values.shape[-1])
    return (mixed if kept is None else mixed.index_select(-1, kept)).to(dtype)


def _window(cells: int, size: int, kernel_size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`~naf_hub_naf.windows.window_slots` as a tensor (size, kernel_size), and which of its slots exist."""
    device = like.device
    sides, last = number(size, device), number(cells - 1, device)
    stride = sides // (last + 1)
    position, slot = torch.arange(size, device=device), torch.arange(kernel_size, device=device)
    residue = position % stride
    members = (sides - residue + stride - 1) // stride
    count = (sides // stride).clamp(max=kernel_size)
    first = torch.minimum((position // stride - count // 2).clamp(min=0), members - count)
    index = (first[:, None] + slot) * stride + residue[:, None]
    scale = (last + 1).float() / sides.float()
    source = torch.minimum(((index.float() + 0.5) * scale).floor().long(), last)
    return source, (slot < count).expand_as(source)


def _offsets(cells: Tensor, grid: int, size: int) -> Tensor:
    """Signed distance in cells from the centres of (size or 1, n) cells to each of ``size`` positions: (size, n)."""
    ratio = number(grid, cells.device).double() / number(size, cells.device)
    return ((torch.arange(size, device=cells.device) + 0.5) * ratio - 0.5)[:, None] - cells

"""The attention of :mod:`.averaged_attention` for a traced graph that leaves the sizes unknown.

Tiles are chosen from the sizes, so there are none here: scores of all pixels and cells are made, one head after the
other, and cells outside a pixel's window are masked. That is more arithmetic, and two maps of as many channels as
there are cells are held at a time, but no size is divided or compared, which compilers would pin.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.precision import without_autocast, working_dtype
from naf_hub.parts.sizes import number

if TYPE_CHECKING:
    from .averaged_attention import CrossDecoder


@without_autocast
def attend_at_any_size(
    queries: Tensor, keys: Tensor, features: Tensor, decoder: CrossDecoder, ratio: float, window: str
) -> Tensor:
    """What a :class:`~naf_hub_jafar.averaged_attention.CrossDecoder` makes of the same operands."""
    dtype, attention = working_dtype(queries.dtype), decoder.cross_attn
    heads = attention.attention.num_heads
    (height, width), (h, w) = queries.shape[-2:], features.shape[-2:]
    convolved = F.conv2d(queries.to(dtype), decoder.conv2d.weight.to(dtype), padding=1)
    asked = attention.queries(convolved.flatten(2).mT).chunk(heads, -1)
    seen = attention.keys(keys.to(dtype).flatten(2).mT).chunk(heads, -1)
    hidden: Tensor | None = None
    if ratio > 0:
        rows = _visible(h, height, ratio, window, queries.device)[:, None, :, None]
        columns = _visible(w, width, ratio, window, queries.device)[:, None]
        hidden = ~(rows & columns).flatten(2).flatten(0, 1)
    total: Tensor | None = None
    for of_pixels, of_cells in zip(asked, seen, strict=True):
        scores = of_pixels @ of_cells.mT
        if hidden is not None:
            scores = scores.masked_fill(hidden, -math.inf)
        weights = scores.softmax(-1)
        total = weights if total is None else total + weights
    assert total is not None
    mixed = features.to(dtype).flatten(2) @ (total / heads).mT
    return mixed.unflatten(-1, (height, width)).to(features.dtype)


def _visible(cells: int, pixels: int, ratio: float, window: str, device: torch.device) -> Tensor:
    """:func:`~naf_hub_jafar.visible_cells.visible_runs` as (pixels, cells), whether a pixel sees a cell."""
    count, pixel = number(cells, device), torch.arange(pixels, device=device)
    if window == "shifted":
        side = count
        if ratio < 0.5:
            side = (count.double() * (2 * ratio)).round().long().clamp(min=3)
            side = torch.minimum(side + (side % 2 == 0).long(), count)
        own = (2 * pixel + 1) * count // (2 * number(pixels, device))
        first = torch.minimum((own - side // 2).clamp(min=0), count - side)
        stop = first + side
    else:  # in float32, as published
        centre = (pixel.float() + 0.5) / number(pixels, device).float()
        first = ((centre - ratio).clamp(0, 1) * count.float()).floor().long()
        stop = ((centre + ratio).clamp(0, 1) * count.float()).ceil().long()
    cell = torch.arange(cells, device=device)
    return (cell >= first[:, None]) & (cell < stop[:, None])

"""NAF by rows of the output, for outputs and images larger than memory.

What the whole needs at once is little: the statistics of every GroupNorm, and the keys. Both are gathered in sweeps
over strips of image rows, each strip encoded from the image alone (:mod:`.guidance_rows`), so that no map is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.pieces import split
from naf_hub.parts.sizes import pooling_matrix

from .attention import CrossScaleAttention
from .guidance_rows import GuidanceRows

if TYPE_CHECKING:
    from .model import NAF

# A strip of image rows in both branches and of queries, and what their convolutions and products need beside it.
_MAPS_ALIVE = 6


def stream_rows(
    model: NAF,
    image: Tensor,
    features: Tensor,
    output_size: tuple[int, int],
    rows: tuple[int, int],
    memory: int,
) -> Iterator[Tensor]:
    """:meth:`NAF.filter <naf_hub_naf.model.NAF.filter>` in strips of rows.

    Args:
        model: pools its keys by averages.
        image: (B, 3, H_img, W_img), normalised and shrunk.
        features: (B, D, h, w), h <= H and w <= W.
        output_size: (H, W).
        rows: first row and the one behind the last.
        memory: bytes of working memory to keep to as far as single rows allow.

    Yields:
        (B, D, n, W) from the top down.
    """
    height, width = output_size
    grid = (features.shape[-2], features.shape[-1])
    numbers = memory // image.element_size()
    step = max(2, numbers // (_MAPS_ALIVE * model.dim * image.shape[-1]))
    guides = [GuidanceRows(model.image_encoder, sample[None], output_size, step) for sample in image]
    rope = model.image_encoder.rope

    def queries(guide: GuidanceRows, start: int, stop: int) -> Tensor:
        maps = guide.rows(start, stop)
        return maps if rope is None else rope(maps, within=(start, height))

    few = max(1, numbers // (_MAPS_ALIVE * model.dim * width))
    keys = []
    for guide in guides:
        total = image.new_zeros(())
        for start, stop in split(height, few):
            strip = queries(guide, start, stop).permute(0, 3, 1, 2)
            across = F.adaptive_avg_pool2d(strip, (stop - start, grid[1]))
            bins = pooling_matrix(height, grid[0], across, inputs=(start, stop))
            total = total + torch.einsum("yr,bcrx->bcyx", bins, across)
        keys.append(model.project_keys(total).permute(0, 2, 3, 1))
    values = features.permute(0, 2, 3, 1)
    plan_y, plan_x = CrossScaleAttention.plan(
        grid, output_size, model.num_heads, model.kernel_size, memory, keys[0]
    )
    first, last = rows[0] // plan_y.tile, -(-rows[1] // plan_y.tile)
    tiles = max(1, numbers // ((_MAPS_ALIVE * model.dim + 2 * features.shape[1]) * width * plan_y.tile))
    for low, high in split(last - first, tiles):
        plan = plan_y.cut(first + low, first + high)
        start = (first + low) * plan_y.tile
        strips = [
            model.attention(queries(guide, start, start + plan.size), key, value[None], (plan, plan_x))
            for guide, key, value in zip(guides, keys, values, strict=True)
        ]
        part = slice(max(rows[0] - start, 0), min(rows[1] - start, plan.size))
        yield torch.cat([strip.output()[:, part] for strip in strips]).permute(0, 3, 1, 2)

"""NAF by rows of the output, for outputs and images larger than memory.

What the whole needs at once is little: the statistics of every GroupNorm, and the keys. Both are gathered in sweeps
over strips of image rows, each strip encoded from the image alone (:mod:`.guidance_rows`), so that no map is kept but
those of branches that fit in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.pieces import split
from naf_hub.parts.sizes import pooling_matrix

from .attention import CrossScaleAttention
from .guidance_rows import GuidanceRows
from .map_memory import branch_bytes
from .strips import scratch_maps

if TYPE_CHECKING:
    from .encoder import GuidanceEncoder
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
    normalize: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Tensor]:
    """:meth:`NAF.filter <naf_hub_naf.model.NAF.filter>` in strips of rows.

    Args:
        model: pools its keys by averages.
        image: (B, 3, H_img, W_img), shrunk and, without ``normalize``, normalised.
        features: (B, D, h, w), h <= H and w <= W.
        output_size: (H, W).
        rows: first row and the one behind the last.
        memory: bytes of working memory to keep to as far as single rows allow.
        normalize: of an image that is not normalised yet: is applied to the rows in work, so that no second image
            is in memory.

    Yields:
        (B, D, n, W) from the top down.
    """
    lead, *others = [
        attention_strips(model, sample[None], cells[None], output_size, rows, memory // len(image), normalize)
        for sample, cells in zip(image, features, strict=True)
    ]
    # Nothing is held while the next strip is made: a strip's queries and output are as large as the memory to keep to.
    for start, strip in lead:
        strips = [strip, *(next(other)[1] for other in others)]
        del strip
        part = slice(max(rows[0] - start, 0), min(rows[1] - start, strips[0].queries.shape[1]))
        outputs = [each.output()[:, part] for each in strips]
        strips.clear()
        output = torch.cat(outputs) if others else outputs[0]
        outputs.clear()
        yield output.permute(0, 3, 1, 2)
        del output


def fill_rows(
    model: NAF, image: Tensor, features: Tensor, output_size: tuple[int, int], output: Tensor, memory: int
) -> None:
    """:func:`stream_rows` into a buffer (B, H, W, D), one sample after the other."""
    for sample, cells, target in zip(image, features, output, strict=True):
        rows = (0, output_size[0])
        for start, strip in attention_strips(model, sample[None], cells[None], output_size, rows, memory):
            strip.output(target[None, start : start + strip.queries.shape[1]])


def attention_strips(
    model: NAF,
    image: Tensor,
    features: Tensor,
    output_size: tuple[int, int],
    rows: tuple[int, int],
    memory: int,
    normalize: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[tuple[int, CrossScaleAttention]]:
    """First row and attention of strips of whole tiles that cover ``rows``, of one sample; see :func:`stream_rows`."""
    height, width = output_size
    grid = (features.shape[-2], features.shape[-1])
    encoder, rope = model.image_encoder, model.image_encoder.rope
    held = _held_branches(encoder, image, memory // 2)
    memory -= held * branch_bytes(encoder, image)
    numbers = memory // image.element_size()
    guide = GuidanceRows(encoder, image, output_size, _image_rows(encoder, image, memory), held, normalize)

    def queries(start: int, stop: int) -> Tensor:
        maps = guide.rows(start, stop)
        return maps if rope is None else rope(maps, overwrite=True, within=(start, height))

    few = max(1, numbers // (_MAPS_ALIVE * model.dim * width))
    total = image.new_zeros(())
    for start, stop in split(height, few):
        strip = queries(start, stop).permute(0, 3, 1, 2)
        across = F.adaptive_avg_pool2d(strip, (stop - start, grid[1]))
        bins = pooling_matrix(height, grid[0], across, inputs=(start, stop))
        total = total + torch.einsum("yr,bcrx->bcyx", bins, across)
    keys, values = model.project_keys(total).permute(0, 2, 3, 1), features.permute(0, 2, 3, 1)
    plan_y, plan_x = CrossScaleAttention.plan(
        grid, output_size, model.num_heads, model.kernel_size, memory // 4, keys
    )
    first, last = rows[0] // plan_y.tile, -(-rows[1] // plan_y.tile)
    tiles = max(1, numbers // ((_MAPS_ALIVE * model.dim + 2 * features.shape[1]) * width * plan_y.tile))
    for low, high in split(last - first, tiles):
        plan, cells = plan_y.cut(first + low, first + high)
        start = (first + low) * plan_y.tile
        yield (
            start,
            model.attention(
                queries(start, start + plan.size),
                keys[:, cells],
                values[:, cells],
                plans=(plan, plan_x),
                memory=memory // 4,
            ),
        )


def assemble_guidance(
    encoder: GuidanceEncoder, image: Tensor, output_size: tuple[int, int], memory: int
) -> Tensor:
    """What ``encoder(image, output_size)`` returns, to rounding, with no map of the image's size beside it.

    Args:
        encoder: its parameters are float32 or float64.
        image: (B, 3, H_img, W_img), normalised, of the parameters' dtype.
        output_size: (H, W) of the guidance.
        memory: bytes to keep to beside the result, as far as single rows allow.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    step = _image_rows(encoder, image, memory)
    few = max(1, step * output_size[0] // image.shape[-2])
    guidance = image.new_empty(len(image), *output_size, encoder.width * len(encoder.branches))
    with torch.no_grad():
        for sample, target in zip(image, guidance, strict=True):
            guide = GuidanceRows(encoder, sample[None], output_size, step)
            for start, stop in split(output_size[0], few):
                target[start:stop] = guide.rows(start, stop)[0]
    return guidance.permute(0, 3, 1, 2)


def _image_rows(encoder: GuidanceEncoder, image: Tensor, memory: int) -> int:
    """Image rows to encode at a time."""
    row = encoder.width * len(encoder.branches) * image.shape[-1] * image.element_size()
    return max(2, memory // (_MAPS_ALIVE * row))


def _held_branches(encoder: GuidanceEncoder, image: Tensor, memory: int) -> int:
    """Branches whose whole maps fit; of residual blocks none, for these take a second map while they are made."""
    if scratch_maps(encoder) > 1:
        return 0
    return min(len(encoder.branches), memory // branch_bytes(encoder, image))

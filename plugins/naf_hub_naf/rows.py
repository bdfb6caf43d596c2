"""NAF by rows of the output, for outputs and images larger than memory.

What the whole needs at once is little: the statistics of every GroupNorm, and the keys. Both are gathered in sweeps
over strips of image rows, each strip encoded from the image alone (with as many rows more as its convolutions
reach), so that no map is kept. A branch of n convolutions costs about n / 2 times as much as when its maps are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.pieces import split
from naf_hub.parts.sizes import pooling_matrix

from .attention import CrossScaleAttention
from .encoder import Branch, Conv
from .strips import Moments

if TYPE_CHECKING:
    from .model import NAF

# A strip of image rows in both branches and of queries, and what their convolutions and products need beside it.
_MAPS_ALIVE = 6


class StreamedGuidance:
    """Any rows of the guidance of one image, encoded when they are asked for.

    Args:
        branches: of the encoder.
        image: (1, 3, H_img, W_img), normalised and shrunk, of the parameters' dtype.
        output_size: (H, W) of the guidance.
        step: image rows to encode at a time.
    """

    def __init__(
        self, branches: list[Branch], image: Tensor, output_size: tuple[int, int], step: int
    ) -> None:
        self.branches, self.image, self.size, self.step = branches, image, output_size, step
        self.affines: list[list[tuple[Tensor, Tensor]]] = []
        for branch in branches:
            known: list[tuple[Tensor, Tensor]] = []
            for norm in _norms(branch):
                moments = Moments()
                for start, stop in split(image.shape[-2], step):
                    moments.add(self._encode(branch, known, start, stop)[0].permute(1, 2, 0))
                known.append(moments.affine(norm))
            self.affines.append(known)

    def __call__(self, start: int, stop: int) -> Tensor:
        """(1, C, stop - start, W): rows of the guidance."""
        height, width = self.image.shape[-2:]
        if (height, width) == self.size:
            return self._image_rows(start, stop)
        first, last = start * height // self.size[0], -(-stop * height // self.size[0])
        pooled = self.image.new_zeros(())
        for low, high in split(last - first, self.step):
            low, high = first + low, first + high
            rows = F.adaptive_avg_pool2d(self._image_rows(low, high), (high - low, self.size[1]))
            bins = pooling_matrix(height, self.size[0], rows, (start, stop), (low, high))
            pooled = pooled + torch.einsum("yr,bcrx->bcyx", bins, rows)
        return pooled

    def _image_rows(self, start: int, stop: int) -> Tensor:
        parts = zip(self.branches, self.affines, strict=True)
        return torch.cat([self._encode(branch, known, start, stop) for branch, known in parts], 1)

    def _encode(self, branch: Branch, known: list[tuple[Tensor, Tensor]], start: int, stop: int) -> Tensor:
        """Rows of a branch after as many normalisations as are known: its stem, then a convolution for each."""
        height = self.image.shape[-2]
        convs = [branch.stem, *(conv for block in branch.blocks for conv in (block.conv1, block.conv2))]
        convs = convs[: len(known) + 1]
        reach = sum(conv.kernel_size[0] // 2 for conv in convs)
        low, high = max(0, start - reach), min(height, stop + reach)
        rows = self.image[:, :, low:high].contiguous(memory_format=torch.channels_last)
        kept: tuple[int, Tensor] | None = None
        for number, conv in enumerate(convs):
            if number % 2 == 1 and branch.blocks[number // 2].residual:
                kept = (low, rows)
            if number:
                scale, shift = (value[:, None, None] for value in known[number - 1])
                rows = F.silu(torch.addcmul(shift, rows, scale), inplace=True)
            rows, low, high = _convolve(conv, rows, low, high, height)
            if number and number % 2 == 0 and kept is not None:
                rows = rows + kept[1][:, :, low - kept[0] : high - kept[0]]
        return rows[:, :, start - low : stop - low]


def _norms(branch: Branch) -> list[nn.GroupNorm]:
    return [norm for block in branch.blocks for norm in (block.norm1, block.norm2)]


def _convolve(conv: Conv, rows: Tensor, low: int, high: int, height: int) -> tuple[Tensor, int, int]:
    """Convolve rows ``low`` to ``high`` of a map; where these end inside it the result has a row less."""
    if conv.kernel_size != (3, 3):
        return F.conv2d(rows, conv.weight, conv.bias), low, high
    above, below = int(low == 0), int(high == height)
    rows = F.pad(rows, (1, 1, 0, 0), mode="reflect" if rows.shape[-1] > 1 else "replicate")
    if above or below:
        rows = F.pad(rows, (0, 0, above, below), mode="reflect" if rows.shape[-2] > 1 else "replicate")
    return F.conv2d(rows, conv.weight, conv.bias), low + 1 - above, high - 1 + below


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
    branches = model.image_encoder.branches
    guides = [StreamedGuidance(branches, sample[None], output_size, step) for sample in image]

    def queries(guide: StreamedGuidance, start: int, stop: int) -> Tensor:
        maps = guide(start, stop).permute(0, 2, 3, 1)
        rope = model.image_encoder.rope
        if rope is not None:
            return rope(maps, within=(start, height))
        return maps.to(torch.promote_types(maps.dtype, torch.float32))

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

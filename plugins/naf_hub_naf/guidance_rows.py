"""Guidance a few rows at a time, for images and outputs larger than memory, without gradients.

GroupNorm needs statistics of whole maps. A branch whose map fits in memory is computed once and held. Of the others
only the statistics are: norm after norm, in sweeps over the image that compute all layers before it again, for rows
and those around them that their convolutions see. After that any rows can be had. A branch of n convolutions costs
about n / 2 times as much as when its maps are held.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.freed_memory import Allocated
from naf_hub.parts.pieces import split
from naf_hub.parts.sizes import pooling_matrix

from .encoder import Branch, Conv, GuidanceEncoder
from .pixel_attention import TILE
from .strips import CACHE_STRIP, Moments, stream_branch

# Layers that are alive at a time, in maps of a branch's width: a convolution's input, padded input and output.
_ALIVE = 3
# What rows in work may take where nothing is computed again, and longer strips save nothing.
_HELD_WORKING = 2**27


class _Held:
    """A branch, of blocks that are not residual, whose whole map is in memory."""

    def __init__(self, branch: Branch, image: Tensor, step: int) -> None:
        self.map = image.new_empty(*image.shape[2:], branch.stem.out_channels)
        strip = min(CACHE_STRIP, step * self.map[0].numel())
        stream_branch(branch, image[0].permute(1, 2, 0), self.map, (self.map, self.map), strip)

    def rows(self, start: int, stop: int) -> Tensor:
        return self.map[None, start:stop].permute(0, 3, 1, 2)


class _Recomputed:
    """A branch of which only the statistics are in memory."""

    def __init__(
        self, branch: Branch, image: Tensor, step: int, normalize: Callable[[Tensor], Tensor] | None
    ) -> None:
        self.branch, self.image, self.allocated = branch, image, Allocated()
        self.normalize = normalize
        self.affines: list[tuple[Tensor, Tensor]] = []
        for norm in (norm for block in branch.blocks for norm in (block.norm1, block.norm2)):
            moments = Moments()
            for start, stop in split(image.shape[-2], step):
                moments.add(self.rows(start, stop)[0].permute(1, 2, 0))
            self.affines.append(moments.affine(norm))

    def rows(self, start: int, stop: int) -> Tensor:
        """Behind as many convolutions as have statistics before them, and the stem."""
        branch, height = self.branch, self.image.shape[-2]
        convs = [branch.stem, *(conv for block in branch.blocks for conv in (block.conv1, block.conv2))]
        convs = convs[: len(self.affines) + 1]
        reach = sum(conv.kernel_size[0] // 2 for conv in convs)
        low, high = max(0, start - reach), min(height, stop + reach)
        x = self.image[:, :, low:high]
        x = x if self.normalize is None else self.normalize(x)
        x = x.contiguous(memory_format=torch.channels_last)
        kept: tuple[int, Tensor] | None = None
        for number, conv in enumerate(convs):
            if number % 2 == 1 and branch.blocks[number // 2].residual:
                kept = (low, x)
            if number:
                scale, shift = (value[:, None, None] for value in self.affines[number - 1])
                x = F.silu(torch.addcmul(shift, x, scale), inplace=True)
            x, low, high = _convolve(conv, x, low, high, height)
            if number and number % 2 == 0 and kept is not None:
                x = x + kept[1][:, :, low - kept[0] : high - kept[0]]
        if x.device.type == "cpu":
            self.allocated.add(_ALIVE * len(convs) * x.nbytes)
        return x[:, :, start - low : stop - low]


def _convolve(conv: Conv, rows: Tensor, low: int, high: int, height: int) -> tuple[Tensor, int, int]:
    """Convolve rows ``low`` to ``high`` of a map; where these end inside it the result has a row less."""
    if conv.kernel_size != (3, 3):
        return F.conv2d(rows, conv.weight, conv.bias), low, high
    above, below = int(low == 0), int(high == height)
    rows = F.pad(rows, (1, 1, 0, 0), mode="reflect" if rows.shape[-1] > 1 else "replicate")
    if above or below:
        rows = F.pad(rows, (0, 0, above, below), mode="reflect" if rows.shape[-2] > 1 else "replicate")
    return F.conv2d(rows, conv.weight, conv.bias), low + 1 - above, high - 1 + below


class GuidanceRows:
    """Rows of the guidance of one image, not yet rotated, as ``encoder(image, output_size)`` has them to rounding.

    Args:
        encoder: its parameters are float32 or float64.
        image: (1, 3, H_img, W_img), normalised if ``normalize`` is not given, of the parameters' dtype.
        output_size: (H, W) of the guidance.
        step: image rows to encode at a time.
        held: so many branches, the costliest, are held whole; none where blocks are residual.
        normalize: normalises rows of the image when they are encoded.
    """

    def __init__(
        self,
        encoder: GuidanceEncoder,
        image: Tensor,
        output_size: tuple[int, int],
        step: int,
        held: int = 0,
        normalize: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.image, self.size, self.step = image, output_size, step
        # Of the branches, those of 3x3 convolutions come last, and cost most to compute again.
        self._sources = [
            _Held(branch, image if normalize is None else normalize(image), step)
            if left <= held
            else _Recomputed(branch, image, step, normalize)
            for branch, left in zip(encoder.branches, range(len(encoder.branches), 0, -1), strict=True)
        ]

    @classmethod
    def within(cls, encoder: GuidanceEncoder, image: Tensor, memory: int) -> GuidanceRows:
        """Guidance of the size of an image (1, 3, H, W), for an encoder without residual blocks.

        Args:
            memory: bytes to keep to, as far as a few rows fit. An eighth is for the rows in work, which ``step``
                then says; branches are held as far as the rest goes.
        """
        height, width = image.shape[-2:]
        branches, working = len(encoder.branches), memory // 8
        row = encoder.width * width * image.element_size()
        held = (memory - working) // (row * height)
        if held >= branches:
            working = min(working, _HELD_WORKING)
        step = max(1, working // (row * (_ALIVE + 2 * branches) * TILE)) * TILE
        return cls(encoder, image, (height, width), step, held)

    def rows(self, start: int, stop: int) -> Tensor:
        """Guidance (1, stop - start, W, C) of those rows, in memory of its own."""
        return self._pooled(start, stop).permute(0, 2, 3, 1)

    def _pooled(self, start: int, stop: int) -> Tensor:
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
        return torch.cat([source.rows(start, stop) for source in self._sources], 1)

"""Guidance a few rows at a time: at image resolution, within a memory budget, without gradients.

GroupNorm needs statistics of whole maps. A branch whose map fits the budget is computed once and held. Of the others
only the statistics are: norm after norm, in sweeps over the image that compute all layers before it again, for rows
and the few rows around them that their convolutions see. After that any rows can be had.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .encoder import Branch, GuidanceEncoder
from .pixel_attention import TILE
from .strips import CACHE_STRIP, Moments, stream_branch

# Layers that are alive at a time, in maps of a branch's width: a convolution's input, padded input and output.
_ALIVE = 3
# What rows in work may take where nothing is computed again, and longer strips save nothing.
_HELD_WORKING = 2**27


class _Held:
    """A branch whose whole map is in memory."""

    def __init__(self, branch: Branch, image: Tensor) -> None:
        self.map = image.new_empty(*image.shape[1:], branch.stem.out_channels)
        stream_branch(branch, image.permute(1, 2, 0), self.map, (self.map, self.map), CACHE_STRIP)

    def rows(self, start: int, stop: int) -> Tensor:
        return self.map[start:stop]


class _Recomputed:
    """A branch of which only the statistics are in memory."""

    def __init__(self, branch: Branch, image: Tensor, step: int) -> None:
        self.branch = branch
        self.image = image[None].contiguous(memory_format=torch.channels_last)
        self.affines: list[tuple[Tensor, Tensor]] = []
        for norm in (norm for block in branch.blocks for norm in (block.norm1, block.norm2)):
            moments = Moments()
            for start in range(0, image.shape[1], step):
                moments.add(self.rows(start, min(start + step, image.shape[1])))
            self.affines.append(moments.affine(norm))

    def rows(self, start: int, stop: int) -> Tensor:
        """Behind as many convolutions as have statistics before them."""
        convs = [conv for block in self.branch.blocks for conv in (block.conv1, block.conv2)]
        # A convolution takes the cut above and below for a border: each spoils one more row there.
        spoilt = (1 + len(self.affines)) * (self.branch.stem.kernel_size[0] // 2)
        first = max(0, start - spoilt)
        x = self.branch.stem(self.image[:, :, first : stop + spoilt])
        for (scale, shift), conv in zip(self.affines, convs, strict=False):
            ready = torch.addcmul(shift[:, None, None], x, scale[:, None, None])
            x = conv(F.silu(ready, inplace=True))
        return x[0, :, start - first : stop - first].permute(1, 2, 0)


class GuidanceRows:
    """Rows of the rotated guidance of one image, as ``rope(encoder(image))`` has them to rounding.

    Args:
        encoder: without residual blocks; its parameters are float32 or float64.
        image: (3, H, W), normalised, of the parameters' dtype.
        memory: bytes to keep to, as far as a few rows fit. An eighth is for the rows in work; the costliest branches
            are held as far as the rest goes.

    Attributes:
        step: rows that are best asked for at a time.
    """

    def __init__(self, encoder: GuidanceEncoder, image: Tensor, memory: int) -> None:
        self.rope, self.height = encoder.rope, image.shape[1]
        branches, working = encoder.branches, memory // 8
        row = encoder.width * image.shape[2] * image.element_size()
        fitting = (memory - working) // (row * self.height)
        if fitting >= len(branches):
            working = min(working, _HELD_WORKING)
        self.step = max(1, working // (row * (_ALIVE + 2 * len(branches)) * TILE)) * TILE
        # Of the branches, those of 3x3 convolutions come last, and cost most to compute again.
        self._sources = [
            _Held(branch, image) if left <= fitting else _Recomputed(branch, image, self.step)
            for branch, left in zip(branches, range(len(branches), 0, -1), strict=True)
        ]

    def rows(self, start: int, stop: int) -> Tensor:
        """Guidance (stop - start, W, C) of those rows."""
        maps = torch.cat([source.rows(start, stop) for source in self._sources], dim=-1)
        if self.rope is None:
            return maps
        return self.rope(maps[None], overwrite=True, within=(start, self.height))[0]

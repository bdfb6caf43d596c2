"""A backbone that needs no weights and has every map, for checks and benchmarks."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..interfaces import Backbone
from ..wants import Want


class RandomBackbone(Backbone):
    """Maps (B, C, h, w) that depend on the image, differ from want to want, and are the same in every process.

    Each channel is a cosine of a random direction of the mean colour of a cell, plus a random pattern over the
    cells: values in [-2, 2], mean near 0, all channels different.

    Args:
        embed_dim: channels C of every map.
        grid: (h, w) of an image of ``size``; images of other sizes get cells in proportion.
        size: (H, W) in pixels.
    """

    def __init__(self, embed_dim: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
        super().__init__(
            embed_dim, patch_size=max(1, round(size[0] / grid[0])), mean=(0.0,) * 3, std=(1.0,) * 3
        )
        self.cells, self.size = grid, size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Feature grid (h, w) for an image of ``height`` x ``width`` pixels."""
        h, w = (
            max(1, round(n * c / s)) for n, c, s in zip((height, width), self.cells, self.size, strict=True)
        )
        return h, w

    def fit(self, image: Tensor) -> Tensor:
        """Any size will do."""
        return image

    def extract_maps(self, image: Tensor, wants: Sequence[Want]) -> tuple[Tensor, ...]:
        """See :meth:`naf_hub.Backbone.extract_maps`; every map can be had."""
        h, w = self.grid(image.shape[-2], image.shape[-1])
        colour = F.adaptive_avg_pool2d(image, (h, w))
        return tuple(self._map(colour, want) for want in wants)

    def _map(self, colour: Tensor, want: Want) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(repr(tuple(want)).encode()))
        cells = (1, 1) if want.kind == "class" else (colour.shape[-2], colour.shape[-1])
        direction = torch.randn(self.embed_dim, 3, generator=generator) * 4
        pattern = torch.rand(1, self.embed_dim, *cells, generator=generator) * 2 - 1
        if want.kind == "class":
            colour = colour.mean((-2, -1), keepdim=True)
        turned = torch.einsum("kc,bchw->bkhw", direction.to(colour), colour)
        return turned.cos() + pattern.to(colour)

"""One level of FeatSharp: what is known of the finer grid, side by side, and its fusion (arXiv 2502.16025)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import naf_hub

from .fusion_block import FusionBlock

INPUTS = ("jafar", "tiles", "bilinear", "rgb")
RGB_WIDTH = 16


class FusionLevel(nn.Module):
    """Fuse the backbone's features of tiles with upsampled ones.

    JAFAR is taken from the registry, with a 3x3 first convolution as the authors have it.

    Args:
        channels: feature channels C.
        factor: positions a cell and axis.
        inputs: out of ``INPUTS``, in the order in which they are put side by side; the result is added to the first.
        layer_norm, window: see :class:`FusionBlock`.
    """

    def __init__(
        self, channels: int, factor: int, inputs: Sequence[str], layer_norm: bool, window: int
    ) -> None:
        super().__init__()
        self.inputs, self.factor = tuple(inputs), factor
        self.tile_pos = nn.Parameter(torch.zeros(1, channels, factor, factor))
        if "jafar" in inputs:
            self.jafar = naf_hub.info("jafar").resolve()(channels=channels, kernel_size=3)
        if "rgb" in inputs:
            self.rgb_proj = nn.Conv2d(3, RGB_WIDTH, 1)
        width = sum(RGB_WIDTH if name == "rgb" else channels for name in inputs)
        self.block = FusionBlock(width, channels, layer_norm, window)

    def forward(self, guidance: Tensor, source: Tensor, tiles: Tensor, memory: int) -> Tensor:
        """Features of the finer grid.

        Args:
            guidance: (B, 3, H, W), square, normalised as the backbone does.
            source: (B, C, g, g).
            tiles: (B, C, n, n), n = factor * g.
            memory: bytes, see :class:`FusionBlock`.

        Returns:
            (B, C, n, n).
        """
        size = (tiles.shape[-2], tiles.shape[-1])
        found = [self._input(name, guidance, source, tiles, size, memory) for name in self.inputs]
        dtype = self.tile_pos.dtype  # that of the weights
        return self.block(torch.cat([part.to(dtype) for part in found], dim=1), memory)

    def _input(
        self, name: str, guidance: Tensor, source: Tensor, tiles: Tensor, size: tuple[int, int], memory: int
    ) -> Tensor:
        if name == "tiles":
            place = F.interpolate(self.tile_pos.to(tiles.dtype), size, mode="nearest-exact")
            return tiles + place
        if name == "bilinear":
            return F.interpolate(source, size, mode="bilinear")
        if name == "rgb":
            colours = F.interpolate(guidance, size, mode="bilinear")
            return self.rgb_proj(colours.to(self.rgb_proj.weight.dtype))
        limit = (min(guidance.shape[-2], 2 * size[0]), min(guidance.shape[-1], 2 * size[1]))
        if limit != guidance.shape[-2:]:
            guidance = F.interpolate(guidance, limit, mode="bilinear")
        self.jafar.memory = memory
        return self.jafar.filter(guidance, source, size)

"""The local attender: a mean of the cells at fixed offsets, whose weights a guide decides (arXiv 2601.17950)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from naf_hub.parts.cell_windows import clip, join_cells, split_cells, surround, weighted_sums
from naf_hub.parts.pieces import Range
from naf_hub.parts.precision import working_dtype
from naf_hub.parts.strip_layer import StripLayer

# Which cells of a window, row by row, are seen; 5x5 where not said otherwise.
CROSS, STAR = ((0, 1), (1, 0), (1, 1), (1, 2), (2, 1)), ((0, 2), (2, 0), (2, 2), (2, 4), (4, 2))
INNER = tuple((y, x) for y in (1, 2, 3) for x in (1, 2, 3))
CORNERS = ((0, 0), (0, 4), (4, 0), (4, 4))
NEIGHBORHOODS: dict[int, tuple[int, tuple[tuple[int, int], ...]]] = {
    5: (3, CROSS),
    9: (3, tuple((y, x) for y in range(3) for x in range(3))),
    13: (5, tuple(sorted({*INNER, *STAR}))),
    17: (5, tuple(sorted({*INNER, *STAR, *CORNERS}))),
    25: (5, tuple((y, x) for y in range(5) for x in range(5))),
}


class LocalAttender(StripLayer):
    """Each pixel a mean of the cells around its own, weighted by a softmax over a linear map of the pixel's guide.

    There are neither queries nor keys. The first channels of the guide are added to the logits. Beyond the map lies
    the nearest cell, so that weights always sum to 1.

    Args:
        guide: channels of the guide.
        channels: C of the features.
        neighbors: 5, 9, 13, 17 or 25 cells.
        scale: pixels per cell and axis.
        residual: add the guide to the logits.

    Raises:
        ValueError: another number of neighbours.
    """

    def __init__(
        self, guide: int, channels: int, neighbors: int = 17, scale: int = 2, residual: bool = True
    ) -> None:
        super().__init__()
        if neighbors not in NEIGHBORHOODS:
            raise ValueError(
                f"neighbors must be one of {', '.join(map(str, NEIGHBORHOODS))}; got {neighbors!r}"
            )
        self.channels = channels
        self.neighbors = neighbors
        self.scale = scale
        self.residual = residual
        self.conv1 = nn.Conv2d(guide, neighbors, 1)

    def forward(self, features: Tensor, guide: Tensor) -> Tensor:
        """(B, C, h, w) and (B, D, s h, s w) -> (B, C, s h, s w)."""
        return self.make(features, guide)

    def prepared(self, *maps: Tensor) -> tuple[Tensor, ...]:
        features, guide = maps
        logits = self.conv1(guide)
        if self.residual:
            shared = min(self.neighbors, guide.shape[1])
            logits[:, :shared] += guide[:, :shared]
        return features, logits

    def strip(self, rows: Range, *maps: Tensor) -> Tensor:
        features, logits = maps
        side, seen = NEIGHBORHOODS[self.neighbors]
        height, dtype = features.shape[2], working_dtype(features.dtype)
        first, last = clip(rows, side // 2, height)
        values = features[:, :, first:last].to(dtype).permute(0, 2, 3, 1)
        values = surround(values, rows, side // 2, height, "replicate")
        pixels = logits[:, :, rows[0] * self.scale : rows[1] * self.scale].to(dtype).permute(0, 2, 3, 1)
        weights = split_cells(pixels, self.scale).softmax(-1)
        places = torch.tensor([y * side + x for y, x in seen], device=weights.device)
        window = weights.new_zeros(*weights.shape[:-1], side * side).index_copy(-1, places, weights)
        window = window.unflatten(-1, (side, side))[:, :, :, None]
        return join_cells(weighted_sums(values, window), self.scale)

    def row_values(self, width: int) -> int:
        window = NEIGHBORHOODS[self.neighbors][0] ** 2
        return width * (self.scale**2 * (3 * self.channels + 4 * window) + 2 * self.channels)

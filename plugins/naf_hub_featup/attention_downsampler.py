"""Down from pixels to a backbone's cells, as FeatUp learns it while it fits (arXiv 2403.10516, section 3.1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .implicit_network import blurred

DROPOUT = 0.2
# Side of a patch in cells: the published 29 pixels for cells of 16.
REACH = 29 / 16


class AttentionDownsampler(nn.Module):
    """Each cell is a weighted mean over a patch of pixels, of maps that are blurred a little first.

    Weights are ``softmax(w (a f + c) + b)``: a linear map of the pixel's features, and a factor and an offset for each
    place in the patch. Patches start at multiples of one stride from the first pixel on, as published, so that the
    last ones may end before the map does.

    Args:
        channels: of the maps.
        grid: (h, w) cells.
        size: (H, W) pixels.
    """

    def __init__(self, channels: int, grid: tuple[int, int], size: tuple[int, int]) -> None:
        super().__init__()
        self.grid, self.size = grid, size
        self.patch = [min(n, max(1, round(REACH * n / cells))) for cells, n in zip(grid, size, strict=True)]
        self.stride = [
            (n - side) // (cells - 1) if cells > 1 else 1
            for cells, n, side in zip(grid, size, self.patch, strict=True)
        ]
        self.logit = nn.Linear(channels, 1)
        self.factor = nn.Parameter(1 + 0.01 * torch.randn(self.patch))
        self.offset = nn.Parameter(0.01 * torch.randn(self.patch))

    def forward(self, maps: Tensor) -> Tensor:
        """(B, channels, H, W) -> (B, channels, h, w)."""
        batch, _, _, width = maps.shape
        (h, w), (rows, columns), (down, across) = self.grid, self.patch, self.stride
        maps = blurred(maps)
        logits = self.logit(F.dropout(maps.movedim(1, -1), DROPOUT, self.training)).squeeze(-1)
        patches = logits.unfold(1, rows, down)[:, :h].unfold(2, columns, across)[:, :, :w]
        # Now and then a cell forgets the features and weighs by place alone.
        kept = torch.rand(batch, h, w, 1, 1, device=maps.device) > DROPOUT if self.training else 1.0
        scores = patches * kept * self.factor + self.offset
        weights = scores.flatten(3).softmax(-1).view(batch, h, w, rows, columns)
        # As dense products with bands of the map: its patches overlap, and unfolded would be several maps.
        row, column, cell = (torch.arange(n, device=maps.device) for n in (rows, columns, w))
        place = (row[:, None, None] * width + column[:, None] + cell * across) * w + cell
        bands = weights.new_zeros(batch, h, rows * width * w)
        bands = bands.index_copy(2, place.flatten(), weights.permute(0, 1, 3, 4, 2).flatten(2))
        bands = bands.view(batch, h, rows * width, w)
        strips = (maps[:, :, i * down : i * down + rows].flatten(2) for i in range(h))
        return torch.stack([strip @ bands[:, i] for i, strip in enumerate(strips)], dim=2)

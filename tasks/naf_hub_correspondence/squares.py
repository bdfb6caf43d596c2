"""Photos padded to squares, and their pixels among the cells of a square map, as the SPair-71k kit has them."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Square:
    """The black square around a photo, seen as S x S cells.

    Attributes:
        height, width: of the photo in pixels.
    """

    height: int
    width: int

    @property
    def side(self) -> int:
        """Pixels of the long side."""
        return max(self.height, self.width)

    @property
    def padding(self) -> tuple[int, int]:
        """Black pixels left of the photo (as many lie right of it) and above it; an odd difference loses one."""
        return (self.side - self.width) // 2, (self.side - self.height) // 2

    def pad(self, image: Tensor, size: int) -> Tensor:
        """The photo (3, H, W) in black, resized to (3, size, size); a pixel that is short of the square is squashed."""
        left, above = self.padding
        padded = F.pad(image, (left, left, above, above))
        return F.interpolate(padded[None], (size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)

    def cells(self, points: Tensor, count: int) -> Tensor:
        """Cells (x, y), (N, 2) int64, in which pixels (x, y) of the photo lie, of ``count`` a side."""
        moved = points.double() + torch.tensor(self.padding, dtype=torch.float64)
        return (moved / self.side * count).floor().long().clamp(0, count - 1)

    def pixels(self, cells: Tensor, count: int) -> Tensor:
        """Pixels (x, y) of the photo, (N, 2) int64, at the centres of cells, numbered by rows; cut to whole numbers
        before the padding is taken off."""
        both = torch.stack([cells % count, cells // count], dim=1).cpu()
        return ((both.double() + 0.5) / count * self.side).long() - torch.tensor(self.padding)


def require_patch(size: int, patch: int) -> None:
    """Photos of ``size`` pixels a side must have room for a cell of the backbone.

    Raises:
        ValueError: less than one patch.
    """
    if size < patch:
        raise ValueError(
            f"photos of {size}x{size} pixels are smaller than the backbone's patch of {patch}: choose a larger size"
        )

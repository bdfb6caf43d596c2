"""A blur that never sees the image: a control that anything guided by the image should beat."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from naf_hub import Promises, Upsampler
from naf_hub.parts.precision import without_autocast, working_dtype

from .interpolation import resize, resize_at


class Blur(Upsampler):
    """Bilinear interpolation of each cell mixed with the mean of the cells around it.

    It lowers the error of a reconstruction and the noise of single cells, as averaging over many cells does, and
    puts no edge anywhere: what an upsampler gains beyond it comes from where it averages.

    Args:
        radius: of the square that is averaged, in cells; what lies outside the grid does not count.
        share: of the mean; the cell itself has the rest.

    Raises:
        ValueError: ``radius`` below 1 or ``share`` outside [0, 1].
    """

    guided = False

    def __init__(self, radius: int = 4, share: float = 0.5) -> None:
        super().__init__()
        if radius < 1:
            raise ValueError(f"radius must be at least 1, got {radius}")
        if not 0 <= share <= 1:
            raise ValueError(f"share must be within [0, 1], got {share}")
        self.radius, self.share = radius, share
        self.promises = Promises(linear_groups=1, range=True, translation=True, open_sizes=True)

    def extra_repr(self) -> str:
        return f"radius={self.radius}, share={self.share}"

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return resize(self._mixed(features), output_size)

    def upsample_points(
        self, image: Tensor, features: Tensor, output_size: tuple[int, int], points: Tensor
    ) -> Tensor:
        return resize_at(self._mixed(features), output_size, points)

    @without_autocast
    def _mixed(self, features: Tensor) -> Tensor:
        cells = features.to(working_dtype(features.dtype))
        mean = F.avg_pool2d(cells, 2 * self.radius + 1, 1, self.radius, count_include_pad=False)
        return cells.lerp(mean, self.share).to(features.dtype)

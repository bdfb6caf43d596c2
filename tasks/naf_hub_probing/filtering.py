"""An upsampler as a filter: features keep their size under its hands, and bilinear interpolation enlarges them."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

from naf_hub.interfaces import StandIn


class AsFilter(StandIn):
    """The upsampler at ratio 1, then bilinear interpolation (NAF paper, Tab. 11)."""

    def upsample(self, image: Tensor, features: Any, output_size: tuple[int, int]) -> Tensor:
        height, width = self.like.reference(features).shape[-2:]
        filtered = self.like(image, features, (height, width))
        return F.interpolate(filtered, output_size, mode="bilinear", align_corners=False)

"""Training pairs from a frozen backbone: features of a crop, of the crop made smaller, and the guidance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.interfaces import Backbone

from .cache import FeatureCache
from .data import Crop
from .plan import Sizes


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing, as published."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)


class Teacher:
    """Gives (guidance, input features, target features) of crops, from the cache where it has them.

    Args:
        backbone: frozen, in eval mode.
        device: where it runs.
        input_sides, guidance_sides: sides the run can draw; all are cached with a crop, so that the crop
            itself goes through the backbone once.
        cache: optional; what goes through it is rounded to float16 (features) and 8 bits (guidance), on
            the first use too, so that a run does not depend on what was cached before it.
        autocast: run the backbone in bfloat16.
    """

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        input_sides: Sequence[int] = (),
        guidance_sides: Sequence[int] = (),
        cache: FeatureCache | None = None,
        autocast: bool = False,
    ) -> None:
        self.backbone = backbone.to(device).eval().requires_grad_(False)
        self.device, self.cache, self.autocast = device, cache, autocast
        self.input_sides, self.guidance_sides = input_sides, guidance_sides

    @torch.no_grad()
    def features(self, images: Tensor) -> Tensor:
        """float32 features (B, C, h, w) of images (B, 3, H, W) in [0, 1]."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.backbone(images).float()

    def pair(self, crops: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor, Tensor]:
        """Guidance (B, 3, g, g) in [0, 1], input features and target features of crops (B, 3, side, side)."""
        crops = crops.to(self.device)
        target = self.features(crops)
        small = target if sizes.pooled else self.features(resize(crops, sizes.input))
        return resize(crops, sizes.guidance), self._pooled(small, sizes), target

    def batch(self, crops: Sequence[Crop]) -> tuple[Tensor, Tensor, Tensor]:
        """As :meth:`pair`, of the crops of one step."""
        if self.cache is None:
            images = torch.stack([crop.image for crop in crops if crop.image is not None])
            return self.pair(images, crops[0].item.sizes)
        entries = [self._cached(crop) for crop in crops]
        guidance, small, target = (
            torch.stack([entry[key] for entry in entries]).to(self.device).float()
            for key in ("guidance", "input", "target")
        )
        sizes = crops[0].item.sizes
        return guidance / 255, self._pooled(target if sizes.pooled else small, sizes), target

    def _pooled(self, features: Tensor, sizes: Sizes) -> Tensor:
        side = sizes.input // self.backbone.patch_size
        return F.adaptive_avg_pool2d(features, side) if sizes.pooled else features

    def _cached(self, crop: Crop) -> dict[str, Tensor]:
        if crop.cached is not None:
            return crop.cached
        assert self.cache is not None
        assert crop.image is not None
        sizes = crop.item.sizes
        # One crop at a time: a batch would round differently with its neighbours.
        image = crop.image[None].to(self.device)
        target = self._half(image, crop)
        inputs = {
            side: self._half(resize(image, side), crop) for side in sorted({sizes.input, *self.input_sides})
        }
        images = {
            side: (resize(image, side)[0] * 255).round().byte().cpu()
            for side in sorted({sizes.guidance, *self.guidance_sides})
        }
        self.cache.store(crop.path, crop.item, target, inputs, images)
        return {"target": target, "input": inputs[sizes.input], "guidance": images[sizes.guidance]}

    def _half(self, image: Tensor, crop: Crop) -> Tensor:
        features = self.features(image)[0].half().cpu()
        if not torch.isfinite(features).all():
            raise ValueError(
                f"{crop.path}: features leave the range of float16; train without --cache-features"
            )
        return features

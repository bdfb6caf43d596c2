"""Training pairs from a frozen backbone: features of a crop, of the crop made smaller, and the guidance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.interfaces import Backbone, Features, Upsampler
from naf_hub.store import each_map, maps_in

from .cache import CropFeatures
from .data import Crop
from .plan import Sizes

# Where maps of the input and of the whole crop stand in the cache.
INPUT, WHOLE = "input", "whole"


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
        upsampler: gathers what it needs of the backbone, and says in which space its output is compared.
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
        upsampler: Upsampler,
        input_sides: Sequence[int] = (),
        guidance_sides: Sequence[int] = (),
        cache: CropFeatures | None = None,
        autocast: bool = False,
    ) -> None:
        self.backbone = backbone.to(device).eval().requires_grad_(False)
        self.device, self.upsampler, self.cache, self.autocast = device, upsampler, cache, autocast
        self.input_sides, self.guidance_sides = input_sides, guidance_sides

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """What the upsampler gathers of images (B, 3, H, W) in [0, 1], in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return each_map(Tensor.float, self.upsampler.gather(images, self.backbone))

    def pair(self, crops: Tensor, sizes: Sizes) -> tuple[Tensor, Features, Tensor]:
        """Guidance (B, 3, g, g) in [0, 1], input features and target (B, C, h, w) of crops (B, 3, side, side)."""
        crops = crops.to(self.device)
        whole = self.features(crops)
        small = self._pool(whole, sizes) if sizes.pooled else self.features(resize(crops, sizes.input))
        return resize(crops, sizes.guidance), small, self.upsampler.reference(whole)

    def batch(self, crops: Sequence[Crop]) -> tuple[Tensor, Features, Tensor]:
        """As :meth:`pair`, of the crops of one step."""
        sizes = crops[0].item.sizes
        if self.cache is None:
            return self.pair(torch.stack([crop.image for crop in crops if crop.image is not None]), sizes)
        entries = [self._cached(crop) for crop in crops]
        stacked = {
            key: torch.stack([entry[key] for entry in entries]).to(self.device).float() for key in entries[0]
        }
        target = stacked["target"]
        if sizes.pooled:
            small = self._pool(
                _unpack(WHOLE, stacked) if any(key.startswith(WHOLE) for key in stacked) else target, sizes
            )
        else:
            small = _unpack(INPUT, stacked)
        return stacked["guidance"] / 255, small, target

    def _pool(self, features: Features, sizes: Sizes) -> Features:
        """Every map averaged to the input's grid; one of a single cell, such as a class token, as it is."""
        side = sizes.input // self.backbone.patch_size
        return each_map(
            lambda found: found if found.shape[-2:] == (1, 1) else F.adaptive_avg_pool2d(found, side),
            features,
        )

    def _cached(self, crop: Crop) -> dict[str, Tensor]:
        if crop.cached is not None:
            return crop.cached
        assert self.cache is not None
        assert crop.image is not None
        sizes = crop.item.sizes
        # One crop at a time: a batch would round differently with its neighbours.
        image = crop.image[None].to(self.device)
        whole = self._halve(self.features(image), crop)
        maps = {
            "target": self.upsampler.reference(each_map(lambda found: found[None].float(), whole))[0].half()
        }
        if not isinstance(whole, Tensor):  # of one map, the target is all there is
            maps |= _pack(WHOLE, whole)
        inputs = {
            side: _pack(INPUT, self._halve(self.features(resize(image, side)), crop))
            for side in sorted({sizes.input, *self.input_sides})
        }
        images = {
            side: (resize(image, side)[0] * 255).round().byte().cpu()
            for side in sorted({sizes.guidance, *self.guidance_sides})
        }
        self.cache.store(crop.path, crop.item, maps, inputs, images)
        return {**maps, **inputs[sizes.input], "guidance": images[sizes.guidance]}

    def _halve(self, features: Features, crop: Crop) -> Features:
        found = each_map(lambda one: one[0].half().cpu(), features)
        if not all(torch.isfinite(one).all() for one in maps_in(found)):
            raise ValueError(
                f"{crop.path}: features leave the range of float16; train without --cache-features"
            )
        return found


def _pack(prefix: str, features: Features) -> dict[str, Tensor]:
    """One map under ``prefix``, several under ``prefix/name``."""
    if isinstance(features, Tensor):
        return {prefix: features}
    return {f"{prefix}/{name}": found for name, found in features.items()}


def _unpack(prefix: str, entries: Mapping[str, Tensor]) -> Features:
    """What :func:`_pack` put there."""
    if prefix in entries:
        return entries[prefix]
    start = f"{prefix}/"
    return {key.removeprefix(start): found for key, found in entries.items() if key.startswith(start)}

"""Training pairs from a frozen backbone: features of a crop, of the crop made smaller, and the guidance."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.interfaces import Backbone, Features, Upsampler
from naf_hub.store import each_map, maps_in

from .cache import CropFeatures
from .data import Crop
from .plan import Item, Sizes

# Where maps of the input and of the whole crop stand in the cache.
INPUT, WHOLE = "input", "whole"


def resize(images: Tensor, side: int) -> Tensor:
    """Bilinear, half-pixel centres, no antialiasing, as published."""
    if images.shape[-2:] == (side, side):
        return images
    return F.interpolate(images, (side, side), mode="bilinear", align_corners=False)


class Example(NamedTuple):
    """What an upsampler is given and what it should make of it.

    Attributes:
        guidance: (B, 3, g, g) in [0, 1].
        small: input features as the upsampler gathers them.
        target: (B, C, H, W) features of the larger image, in the space of the output.
    """

    guidance: Tensor
    small: Features
    target: Tensor


class Teacher:
    """Gives (guidance, input features, target features) of crops, from the cache where it has them.

    Args:
        backbone: frozen, in eval mode.
        device: where it runs.
        upsampler: gathers what it needs of the backbone, and says in which space its output is compared.
        input_sides: sides of inputs the run can draw; all are cached with a crop, so that the crop itself goes
            through the backbone once.
        cache: optional; what goes through it is rounded to float16 (features) and 8 bits (crops), on the first use
            too, so that a run does not depend on what was cached before it.
        autocast: run the backbone in bfloat16.
    """

    def __init__(
        self,
        backbone: Backbone,
        device: torch.device,
        upsampler: Upsampler,
        input_sides: Sequence[int] = (),
        cache: CropFeatures | None = None,
        autocast: bool = False,
    ) -> None:
        self.backbone = backbone.to(device).eval().requires_grad_(False)
        self.device, self.upsampler, self.cache, self.autocast = device, upsampler, cache, autocast
        self.input_sides = input_sides

    @torch.no_grad()
    def features(self, images: Tensor) -> Features:
        """What the upsampler gathers of images (B, 3, H, W) in [0, 1], in float32."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return each_map(Tensor.float, self.upsampler.gather(images, self.backbone))

    def inputs(self, images: Tensor) -> Features:
        """As :meth:`features`, with gradients where the upsampler learns to gather."""
        if not self.upsampler.learns_to_gather:
            return self.features(images)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            found = self.upsampler.gather(images, self.backbone)
        return each_map(Tensor.float, found)

    def target(self, images: Tensor) -> Tensor:
        """Features (B, C, h, w) of images, in the space of the output.

        Of an upsampler that gathers more than maps of the whole image, those of the backbone's last map: what is
        gathered may have another grid, and its passes would be for nothing.
        """
        if takes_maps(self.upsampler):
            return self.upsampler.reference(self.features(images))
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            return self.upsampler.reference(self.backbone(images).float())

    def gathering_by(self, upsampler: Upsampler) -> Teacher:
        """The same, for another upsampler of the same kind."""
        other = copy.copy(self)
        other.upsampler = upsampler
        return other

    def images(self, crops: Sequence[Crop]) -> Tensor:
        """(B, 3, side, side) of crops that did not come from the cache."""
        return torch.stack([crop.image for crop in crops if crop.image is not None]).to(self.device)

    def pair(self, crops: Tensor, sizes: Sizes) -> Example:
        """What is learned from crops (B, 3, side, side)."""
        crops = crops.to(self.device)
        if not sizes.pooled:
            return Example(
                resize(crops, sizes.guidance), self.features(resize(crops, sizes.input)), self.target(crops)
            )
        whole = self.features(crops)
        return Example(
            resize(crops, sizes.guidance), self._pool(whole, sizes), self.upsampler.reference(whole)
        )

    def levels(self, crops: Sequence[Crop], count: int, all_steps: bool) -> Iterator[Example]:
        """What is learned from smaller pictures of the crops, each guided by itself.

        Args:
            crops: of one step, their sides multiples of ``2**count`` patches.
            count: pictures of half the side, a quarter and so on, smoothed as they shrink.
            all_steps: compare at every doubling up to the crop's grid, or at the first alone.
        """
        image = self.images(crops)
        side = image.shape[-1]
        pictures = [image] + [
            F.interpolate(image, (side >> level, side >> level), mode="bilinear", antialias=True).clamp(0, 1)
            for level in range(1, count + 1)
        ]
        targets = [self.target(picture) for picture in pictures[:-1]]
        for level, picture in enumerate(pictures[1:], start=1):
            small = self.inputs(picture)
            for finer in range(level - 1, -1 if all_steps else level - 2, -1):
                yield Example(picture, small, targets[finer])

    def batch(self, crops: Sequence[Crop]) -> Example:
        """What is learned from the crops of one step, or from the windows in them."""
        sizes, items = crops[0].item.sizes, [crop.item for crop in crops]
        if self.cache is None:
            images = self.images(crops)
            if sizes.pooled:
                small = self.features(images)
                target = self.upsampler.reference(small)
            else:
                small, target = self.inputs(resize(images, sizes.input)), self.target(images)
        else:
            entries = [self._cached(crop) for crop in crops]
            stacked = {
                key: torch.stack([entry[key] for entry in entries]).to(self.device).float()
                for key in entries[0]
            }
            images, target = stacked["image"] / 255, stacked["target"]
            whole = _unpack(WHOLE, stacked) if any(key.startswith(WHOLE) for key in stacked) else target
            small = whole if sizes.pooled else _unpack(INPUT, stacked)
        small = each_map(lambda found: cut(found, items), small)
        if sizes.pooled:
            small = self._pool(small, sizes)
        return Example(resize(cut(images, items), sizes.guidance), small, cut(target, items))

    def _pool(self, features: Features, sizes: Sizes) -> Features:
        """Every map averaged to the input's grid; one of a single cell, such as a class token, as it is."""
        side = sizes.part * (sizes.input // self.backbone.patch_size) // sizes.grid
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
        maps = {"target": self._cached_target(image, whole).half()}
        if not isinstance(whole, Tensor):  # of one map, the target is all there is
            maps |= _pack(WHOLE, whole)
        inputs = {
            side: _pack(INPUT, self._halve(self.features(resize(image, side)), crop))
            for side in sorted({sizes.input, *self.input_sides})
        }
        pixels = (image[0] * 255).round().byte().cpu()
        self.cache.store(crop.path, crop.item, {**maps, "image": pixels}, inputs)
        return {**maps, **inputs[sizes.input], "image": pixels}

    def _cached_target(self, image: Tensor, whole: Features) -> Tensor:
        """The target (C, h, w) of one crop whose maps were rounded; of maps that give none, that of the crop."""
        if not takes_maps(self.upsampler):
            return self.target(image)[0]
        return self.upsampler.reference(each_map(lambda found: found[None].float(), whole))[0]

    def _halve(self, features: Features, crop: Crop) -> Features:
        found = each_map(lambda one: one[0].half().cpu(), features)
        if not all(torch.isfinite(one).all() for one in maps_in(found)):
            raise ValueError(
                f"{crop.path}: features leave the range of float16; train without --cache-features"
            )
        return found


def takes_maps(upsampler: Upsampler) -> bool:
    """Whether it gathers maps of the whole image and nothing else."""
    return upsampler.gather_key == (upsampler.wants,)


def cut(maps: Tensor, items: Sequence[Item]) -> Tensor:
    """The windows of ``items`` in maps (B, C, side, side) of their crops, mirrored where they are to be.

    Maps may have any whole number of entries per cell of the input; those of one entry, such as class tokens, stay.
    """
    sizes = items[0].sizes
    if not sizes.window or maps.shape[-2:] == (1, 1):
        return maps
    side = maps.shape[-1]
    length = sizes.window * side // sizes.grid
    parts: list[Tensor] = []
    for found, item in zip(maps, items, strict=True):
        top, left = (place * side // sizes.grid for place in item.corner)
        part = found[:, top : top + length, left : left + length]
        parts.append(part.flip(-1) if item.mirrored else part)
    return torch.stack(parts)


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

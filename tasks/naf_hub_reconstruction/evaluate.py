"""Held-out reconstruction error: how near upsampled features come to those of the larger image."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.crops import Cropping
from naf_hub.errors import ImageError
from naf_hub.interfaces import Features

from .features import Teacher
from .plan import Sizes, crop_side, guidance_side, input_side

Method = Callable[[Tensor, Any, tuple[int, int]], Tensor]


@dataclasses.dataclass(frozen=True)
class Pair:
    """One held-out image.

    Attributes:
        guidance: (1, 3, g, g) in [0, 1].
        small: input features as the upsampler gathers them.
        target: (1, C, H, W) reference features of the whole crop.
        low: (1, C, h, w) reference features of the input.
    """

    guidance: Tensor
    small: Features
    target: Tensor
    low: Tensor


def bilinear(guidance: Tensor, features: Tensor, size: tuple[int, int]) -> Tensor:
    """The yardstick: bilinear interpolation with half-pixel centres."""
    return F.interpolate(features, size, mode="bilinear", align_corners=False)


def held_out_pairs(
    files: Sequence[Path],
    teacher: Teacher,
    *,
    crop: int,
    down: float = 0.5,
    guidance: float = 4.0,
    guidance_max: int = 224,
    resize: int = 0,
    min_side: int = 0,
    pooled: bool = False,
    skipped: dict[str, str] | None = None,
) -> Iterator[Pair]:
    """One pair for each usable image: its centre crop against the crop made ``down`` times smaller.

    Args:
        files: images.
        teacher: gives features.
        crop: side of the crop in pixels, rounded down to whole patches.
        down: side of the input image over that of the crop, rounded to whole patches.
        guidance, guidance_max: side of the guidance image: pixels per target cell, and its upper bound.
        resize, min_side: see :class:`~naf_hub.crops.Cropping`.
        pooled: the input is the target averaged to the input grid, not the features of a smaller image.
        skipped: receives the images passed over and why.
    """
    sizes = pair_sizes(teacher.backbone.patch_size, crop, down, guidance, guidance_max, pooled)
    for _, image in held_out_crops(files, sizes.crop, resize, min_side, skipped):
        guide, small, target = teacher.pair(image[None], sizes)
        yield Pair(guide, small, target, teacher.upsampler.reference(small))


def pair_sizes(patch: int, crop: int, down: float, guidance: float, guidance_max: int, pooled: bool) -> Sizes:
    """The sides of a held-out pair for a backbone of that patch; arguments as for :func:`held_out_pairs`."""
    side = crop_side(crop, patch)
    grid = side // patch
    guide = guidance_side(grid, guidance, guidance_max)
    return Sizes(side, input_side(side, patch, down), guide, grid, pooled)


def held_out_crops(
    files: Sequence[Path], side: int, resize: int, min_side: int, skipped: dict[str, str] | None = None
) -> Iterator[tuple[Path, Tensor]]:
    """The centre crop (3, side, side) of each usable image; arguments as for :func:`held_out_pairs`."""
    cropping = Cropping(resize, min_side)
    for path in files:
        try:
            image = cropping.cut(path, 0, side)
        except (ImageError, OSError) as error:
            if skipped is not None:
                skipped[str(path)] = str(error)
            continue
        yield path, image


@torch.no_grad()
def score(methods: Mapping[str, Method], pairs: Iterable[Pair]) -> dict[str, Any]:
    """Errors of ``methods`` on the same pairs.

    Returns:
        ``images``, ``bilinear_mse``, and under ``methods`` for each name: ``mse`` (mean over images,
        channels and cells), ``ratio_to_bilinear`` (its mse over bilinear's) and ``cosine`` (mean cosine
        similarity of upsampled and target vectors, cell by cell).

    Raises:
        ImageError: no pairs.
    """
    mse = dict.fromkeys(methods, 0.0)
    cosine = dict.fromkeys(methods, 0.0)
    base, count = 0.0, 0
    for pair in pairs:
        size = (pair.target.shape[-2], pair.target.shape[-1])
        count += 1
        base += F.mse_loss(bilinear(pair.guidance, pair.low, size), pair.target).item()
        for name, method in methods.items():
            output = method(pair.guidance, pair.small, size).float()
            mse[name] += F.mse_loss(output, pair.target).item()
            cosine[name] += F.cosine_similarity(output, pair.target, dim=1).mean().item()
    if not count:
        raise ImageError("no usable held-out image")
    return {
        "images": count,
        "bilinear_mse": base / count,
        "methods": {
            name: {
                "mse": mse[name] / count,
                "ratio_to_bilinear": mse[name] / base if base else float("nan"),
                "cosine": cosine[name] / count,
            }
            for name in methods
        },
    }

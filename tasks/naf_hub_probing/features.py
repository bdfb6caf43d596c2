"""Frozen features of a split as an upsampler gathers them, and a backbone that needs no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from naf_hub import Backbone, Upsampler
from naf_hub.errors import DatasetError, ImageError
from naf_hub.interfaces import Features
from naf_hub.store import FeatureStore
from naf_hub.terminal import progress_bar

from .pairs import LabelledImage, Pairs, Readable


class SplitFeatures:
    """``features(split, samples)``: what one upsampler gathers of one backbone, each picture and side once.

    Args:
        store: keeps the features; upsamplers that gather the same share them.
        backbone: frozen.
        upsampler: gathers.
    """

    def __init__(self, store: FeatureStore, backbone: nn.Module, upsampler: Upsampler) -> None:
        self.store, self.backbone, self.upsampler = store, backbone, upsampler

    @property
    def device(self) -> torch.device:
        """Where the features are returned."""
        return self.store.device

    def __call__(self, split: str, samples: Sequence[LabelledImage], flipped: bool = False) -> Features:
        """float32 features (B, C, h, w), or several by name, of the samples; of their mirror images if ``flipped``."""
        images = [sample.image.flip(-1) if flipped else sample.image for sample in samples]
        views = [(split, sample.position, flipped) for sample in samples]
        return self.store.gather(self.upsampler, self.backbone, images, views)


@dataclasses.dataclass
class Survey:
    """What one pass over a split found.

    Attributes:
        usable: positions of the readable pairs.
        skipped: one line for each pair that could not be read.
        pixels: labelled pixels, by what the pairs count: a class, say.
        moments: per-channel mean and standard deviation (C,) of the upsampler's reference features.
    """

    usable: list[int]
    skipped: list[str]
    pixels: Tensor
    moments: tuple[Tensor, Tensor]


def survey(pairs: Pairs, split: str, cache: SplitFeatures, workers: int = 0) -> Survey:
    """Read every pair, fill the cache, and collect what training must know.

    Raises:
        DatasetError: a label that does not fit, no readable pair, or no labelled pixel at all.
    """
    loader = DataLoader(Readable(pairs), batch_size=None, num_workers=workers)
    usable: list[int] = []
    skipped: list[str] = []
    pixels = torch.zeros(len(pairs.counted), dtype=torch.int64)
    total = square = torch.zeros(())
    count = 0
    for item in progress_bar(loader, desc=f"features: {split}", total=len(pairs), unit="image"):
        if isinstance(item, ImageError):
            skipped.append(str(item))
            continue
        sample = cast(LabelledImage, item)
        usable.append(sample.position)
        pixels += pairs.count(sample.label)
        features = cache.upsampler.reference(cache(split, [sample]))[0].flatten(1).double()
        total = total + features.sum(1)
        square = square + features.square().sum(1)
        count += features.shape[1]
    if not usable:
        raise DatasetError(f"no readable pair in {split}: {skipped[0]}")
    if not pixels.any():
        raise DatasetError(f"no labelled pixel in {split}: {pairs.nothing}")
    mean = total / count
    return Survey(usable, skipped, pixels, (mean, (square / count - mean.square()).clamp(min=0).sqrt()))


class CellStatistics(Backbone):
    """The no-network row: mean and standard deviation of RGB in each cell, and the cell's position.

    11 channels: three means, three deviations, and x, y, x^2, y^2, xy with x and y from -1 to 1.
    """

    def __init__(self, patch_size: int = 16) -> None:
        super().__init__(embed_dim=11, patch_size=patch_size, mean=(0.0,) * 3, std=(1.0,) * 3)

    def extract(self, image: Tensor) -> Tensor:
        mean = F.avg_pool2d(image, self.patch_size)
        variance = F.avg_pool2d(image.square(), self.patch_size) - mean.square()
        batch, _, h, w = mean.shape
        y = torch.linspace(-1, 1, h, dtype=image.dtype, device=image.device)[:, None].expand(h, w)
        x = torch.linspace(-1, 1, w, dtype=image.dtype, device=image.device).expand(h, w)
        position = torch.stack([x, y, x * x, y * y, x * y]).expand(batch, 5, h, w)
        return torch.cat([mean, variance.clamp(min=0).sqrt(), position], 1)

"""Frozen features, computed once a picture and kept in memory; and a backbone that needs no network."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import cast

import psutil
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from naf_hub import Backbone
from naf_hub.errors import ImageError

from .folders import IGNORE, DatasetError, LabelledImage, Readable, SegmentationFolder

CACHES: dict[str, torch.dtype | None] = {"float32": torch.float32, "float16": torch.float16, "off": None}


class FeatureCache:
    """``cache(samples) -> (B, C, h, w)`` float32; each picture goes through the backbone once.

    Args:
        backbone: frozen.
        precision: ``"float32"`` (exact), ``"float16"`` (half the memory), ``"off"`` (always compute), or
            ``"auto"``: float32 where ``expected`` pictures fit in half the free memory, else off.
        expected: number of pictures (a mirrored one counts as another).
        device: where the backbone runs and the features are returned; the cache itself is in RAM.
    """

    def __init__(self, backbone: Backbone, precision: str, expected: int, device: torch.device) -> None:
        if precision not in (*CACHES, "auto"):
            raise ValueError(f"cache must be auto, {', '.join(CACHES)}, got {precision!r}")
        self.backbone = backbone
        self.precision = precision
        self.expected = expected
        self.device = device
        self.kept: dict[tuple[str, int, bool], Tensor] = {}

    @torch.no_grad()
    def __call__(self, split: str, samples: Sequence[LabelledImage], flipped: bool = False) -> Tensor:
        """Features of the samples, of their mirror images where ``flipped``."""
        keys = [(split, sample.position, flipped) for sample in samples]
        missing = [i for i, key in enumerate(keys) if key not in self.kept]
        fresh: dict[int, Tensor] = {}
        if missing:
            images = torch.stack([samples[i].image for i in missing]).to(self.device)
            computed = self.backbone(images.flip(-1) if flipped else images).float()
            fresh = dict(zip(missing, computed, strict=True))
            self._keep({keys[i]: features for i, features in fresh.items()})
        return torch.stack([fresh[i] if i in fresh else self._stored(key) for i, key in enumerate(keys)])

    def _stored(self, key: tuple[str, int, bool]) -> Tensor:
        return self.kept[key].to(self.device).float()

    def _keep(self, fresh: dict[tuple[str, int, bool], Tensor]) -> None:
        if self.precision == "auto":
            one = next(iter(fresh.values()))
            fits = one.nbytes * self.expected < psutil.virtual_memory().available / 2
            self.precision = "float32" if fits else "off"
        dtype = CACHES[self.precision]
        if dtype is not None:
            for key, features in fresh.items():
                kept = features.cpu().to(dtype, copy=True)
                if dtype is torch.float16 and not torch.isfinite(kept).all():
                    raise ValueError("features exceed float16; use --cache float32 or off")
                self.kept[key] = kept


@dataclasses.dataclass
class Survey:
    """What one pass over a split found.

    Attributes:
        usable: positions of the readable pairs.
        skipped: one line for each pair that could not be read.
        pixels: labelled pixels a class.
        moments: per-channel mean and standard deviation (C,) of the features.
    """

    usable: list[int]
    skipped: list[str]
    pixels: Tensor
    moments: tuple[Tensor, Tensor]


def survey(folder: SegmentationFolder, split: str, cache: FeatureCache, workers: int = 0) -> Survey:
    """Read every pair, fill the cache, and collect what training must know.

    Raises:
        DatasetError: a label that does not fit ``classes.json``, or no readable pair at all.
    """
    loader = DataLoader(Readable(folder), batch_size=None, num_workers=workers)
    usable: list[int] = []
    skipped: list[str] = []
    pixels = torch.zeros(len(folder.classes.names), dtype=torch.int64)
    total = square = torch.zeros(())
    count = 0
    for item in tqdm(loader, desc=f"features: {split}", total=len(folder), disable=None, unit="image"):
        if isinstance(item, ImageError):
            skipped.append(str(item))
            continue
        sample = cast(LabelledImage, item)
        usable.append(sample.position)
        pixels += torch.bincount(sample.label[sample.label != IGNORE], minlength=len(pixels))
        features = cache(split, [sample])[0].flatten(1).double()
        total = total + features.sum(1)
        square = square + features.square().sum(1)
        count += features.shape[1]
    if not usable:
        raise DatasetError(f"no readable pair in {split}: {skipped[0]}")
    if not pixels.any():
        raise DatasetError(f"no labelled pixel in {split}: every label is ignored")
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

"""One photo upsampled: read, brought to a size, and its features before and after."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path

import torch
from torch import Tensor

from .image_sizes import ImageSize, is_bounded, resized
from .images import read_image
from .memory import needed_memory, require_memory
from .pipeline import FeaturePipeline


@dataclasses.dataclass(frozen=True)
class UpsampledPhoto:
    """What came out of one photo.

    Attributes:
        image: (3, H, W) in [0, 1], at the size the features were computed at.
        low: (C, h, w) features before upsampling, in the space of the upsampled ones.
        features: (C, H, W).
        bounded: whether the long side had to be bounded, see :func:`naf_hub.image_sizes.is_bounded`.
        seconds: of backbone and upsampler.
    """

    image: Tensor
    low: Tensor
    features: Tensor
    bounded: bool
    seconds: float


def upsample_photo(
    model: FeaturePipeline, source: Path, size: ImageSize, advice: str = "give a smaller --size"
) -> UpsampledPhoto:
    """Upsample the features of one image file.

    Args:
        model: backbone and upsampler.
        source: the photo.
        size: that it is brought to, see :func:`naf_hub.image_sizes.fit_size`.
        advice: what to do where memory does not suffice.

    Raises:
        ImageError: the image cannot be read.
        NotEnoughMemoryError: what it needs is not free.
        ValueError: the sizes do not fit the model.
    """
    image = read_image(source)[None]
    height, width = image.shape[-2:]
    fitted = model.working_size(height, width, size)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), image.device)
    what = f"{source}: {fitted[0]}x{fitted[1]} pixels of features"
    require_memory(needed_memory(model, fitted), what, advice, str(device))
    image = resized(image, fitted)
    start = time.perf_counter()
    with torch.no_grad():
        image = image.to(device)
        gathered = model.upsampler.gather(image, model.backbone)
        low, features = model.upsampler.reference(gathered), model.upsampler(image, gathered)
    seconds = time.perf_counter() - start
    return UpsampledPhoto(image[0], low[0], features[0], is_bounded(height, width, size), seconds)

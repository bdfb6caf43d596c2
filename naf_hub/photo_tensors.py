"""The features of one photo, ready to be written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from .image_sizes import ImageSize, fit_size, resized

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .pipeline import FeaturePipeline

# By the name of a tensor: strips of rows, and the shape (1, C, n, W) of these together.
Tensors = dict[str, "tuple[Iterable[Tensor], tuple[int, int, int, int]]"]


def photo_tensors(model: FeaturePipeline | nn.Module, photo: Path, size: ImageSize, dtype: str) -> Tensors:
    """The features of a photo: ``features``, where the model is a pipeline, and ``low_res``.

    Raises:
        ImageError: the image cannot be read.
        NotEnoughMemoryError: what it needs is not free.
        ValueError: the sizes do not fit the model; while strips are read, features that ``dtype`` cannot hold.
    """
    import torch

    from .checks import tell_once
    from .images import read_image
    from .interfaces import Upsampler
    from .memory import free_memory, memory_of_strips, needed_memory, require_memory
    from .pipeline import FeaturePipeline

    pipeline = model if isinstance(model, FeaturePipeline) else None
    backbone = model if pipeline is None else pipeline.backbone
    image = read_image(photo)[None]
    wanted = fit_size(image.shape[-2], image.shape[-1], size, getattr(backbone, "patch_size", 1))
    device = next((t.device for t in (*model.parameters(), *model.buffers())), image.device)
    needed = memory_of_strips(wanted) if pipeline is None else needed_memory(pipeline, wanted)
    whole = needed <= free_memory(str(device))
    if pipeline is not None and not whole:
        by_rows = type(pipeline.upsampler).upsample_rows is not Upsampler.upsample_rows
        needed = memory_of_strips(wanted) if by_rows else needed
    what = f"{photo}: {wanted[0]}x{wanted[1]} pixels of features"
    require_memory(needed, what, "give a smaller --size", str(device))
    with torch.no_grad(), tell_once():
        image = resized(image, wanted).to(device)
        if pipeline is None:
            return {"low_res": _in_one(backbone(image), dtype)}
        upsampler = pipeline.upsampler
        gathered = upsampler.gather(image, backbone)
        low = upsampler.reference(gathered)
        strips = [upsampler(image, gathered)] if whole else upsampler.stream(image, gathered)
        features = (_as_dtype(strips, dtype), (1, low.shape[1], *wanted))
        return {"features": features, "low_res": _in_one(low, dtype)}


def _in_one(features: Tensor, dtype: str) -> tuple[Iterator[Tensor], tuple[int, int, int, int]]:
    _, channels, height, width = features.shape
    return _as_dtype([features], dtype), (1, channels, height, width)


def _as_dtype(strips: Iterable[Tensor], dtype: str) -> Iterator[Tensor]:
    import torch

    with torch.no_grad():
        for strip in strips:
            made = strip.detach().to(getattr(torch, dtype))
            if not torch.isfinite(made).all():
                what = (
                    "beyond what float16 holds; give --dtype float32"
                    if torch.isfinite(strip).all()
                    else "not finite"
                )
                raise ValueError(f"its features are {what}")
            yield made

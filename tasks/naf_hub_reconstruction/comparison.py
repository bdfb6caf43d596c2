"""Reconstruction error of several upsamplers on the same images, each in the space of its own output."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from naf_hub.errors import ImageError
from naf_hub.interfaces import Backbone, Upsampler
from naf_hub.store import FeatureStore, each_map

from .evaluate import bilinear, held_out_crops, pair_sizes
from .features import resize
from .plan import Sizes


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What decides the figures.

    Attributes:
        crop, resize: centre crop of that many pixels, rounded down to whole patches, after bringing the short side
            to ``resize`` pixels (0: leave it, enlarging only what is smaller than the crop).
        down: side of the input image over that of the crop; 0.5 is x2 upsampling.
        guidance, guidance_max: side of the guidance image: pixels per target cell, and its bound (0: none).
        min_side: images with a shorter side are left out.
        pooled: the input is the target averaged to the input grid, not the features of a smaller image: what is
            lost is detail alone.
        limit: use only so many images, evenly spread over the list; 0 for all.
    """

    crop: int = 384
    resize: int = 0
    down: float = 0.5
    guidance: float = 4.0
    guidance_max: int = 224
    min_side: int = 0
    pooled: bool = False
    limit: int = 0

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Protocol:
        """The protocol of plain settings.

        Raises:
            ValueError: a setting that does not exist.
        """
        names = [field.name for field in dataclasses.fields(cls)]
        strangers = sorted(set(settings) - set(names))
        if strangers:
            raise ValueError(f"no setting {strangers[0]!r}; there are: {', '.join(names)}")
        return cls(**settings)

    def to_dict(self) -> dict[str, Any]:
        """Plain settings, as :meth:`read` takes them."""
        return dataclasses.asdict(self)


@torch.no_grad()
def compare(
    models: Mapping[str, Upsampler],
    backbone: Backbone,
    files: Sequence[Path],
    protocol: Protocol,
    device: Any = "cpu",
    skipped: dict[str, str] | None = None,
    progress: bool = False,
) -> tuple[dict[str, dict[str, float]], int]:
    """Errors of ``models`` on the same images, and how many those are.

    Upsamplers of one ``gather_key`` share the passes of the backbone. What an upsampler makes of the input's
    features is compared with its reference features of the crop itself.

    Returns:
        For each name ``mse`` (mean over images, channels and cells), ``bilinear_mse`` (of bilinear interpolation of
        the reference features of the input), ``ratio_to_bilinear`` (the one over the other) and ``cosine`` (mean
        cosine similarity of upsampled and target vectors, cell by cell); and the number of images.

    Raises:
        ImageError: no usable image.
        ValueError: an output has another size than was asked for.
    """
    sizes = pair_sizes(
        backbone.patch_size, protocol.crop, protocol.down, protocol.guidance, protocol.guidance_max, protocol.pooled
    )  # fmt: skip
    backbone.to(device).eval()
    for model in models.values():
        model.to(device).eval()
    store = FeatureStore("float32", device=device)
    sums: dict[str, dict[str, float]] = {
        name: dict.fromkeys(("mse", "bilinear_mse", "cosine"), 0.0) for name in models
    }
    count = 0
    crops = held_out_crops(files, sizes.crop, protocol.resize, protocol.min_side, skipped)
    for _, crop in tqdm(crops, total=len(files), unit="image", disable=None if progress else True):
        count += 1
        store.clear()
        for name, model in models.items():
            for key, value in measure_error(model, backbone, crop.to(device), sizes, store).items():
                sums[name][key] += value
    if not count:
        raise ImageError("no usable held-out image")
    figures = {name: {key: total / count for key, total in found.items()} for name, found in sums.items()}
    for found in figures.values():
        base = found["bilinear_mse"]
        found["ratio_to_bilinear"] = found["mse"] / base if base else float("nan")
    return figures, count


def measure_error(
    model: Upsampler, backbone: Backbone, crop: Tensor, sizes: Sizes, store: FeatureStore
) -> dict[str, float]:
    """``mse``, ``bilinear_mse`` and ``cosine`` of one upsampler on one crop (3, side, side)."""
    whole = store.gather(model, backbone, [crop], ["crop"])
    if sizes.pooled:
        side = sizes.input // backbone.patch_size
        given = each_map(lambda found: pool(found, side), whole)
    else:
        given = store.gather(model, backbone, [resize(crop[None], sizes.input)[0]], ["input"])
    target, low = model.reference(whole), model.reference(given)
    size = (target.shape[-2], target.shape[-1])
    output = model(resize(crop[None], sizes.guidance), given, size).float()
    if output.shape != target.shape:
        raise ValueError(
            f"{type(model).__name__} gave {tuple(output.shape)} where {tuple(target.shape)} was asked for; "
            "its ratio is fixed: choose --down to fit it"
        )
    return {
        "mse": F.mse_loss(output, target).item(),
        "bilinear_mse": F.mse_loss(bilinear(crop, low, size), target).item(),
        "cosine": F.cosine_similarity(output, target, dim=1).mean().item(),
    }


def pool(features: Tensor, side: int) -> Tensor:
    """The map averaged to ``side`` x ``side`` cells; a map of one cell, such as a class token, as it is."""
    return features if features.shape[-2:] == (1, 1) else F.adaptive_avg_pool2d(features, side)

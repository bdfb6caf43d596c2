"""A picture of how far training has come: one image, its features before and after."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from naf_hub.interfaces import Upsampler
from naf_hub.picture import PcaBasis, photo, side_by_side

from .config import TrainConfig
from .evaluate import bilinear, held_out_pairs
from .features import Teacher

SIDE = 224  # pixels, of the guidance and the upsampled features


@torch.no_grad()
def draw_preview(
    config: TrainConfig, files: Sequence[Path], teacher: Teacher, model: Upsampler
) -> Image.Image:
    """Photo, input features, bilinear, model and target features of the first usable file, in one PCA basis.

    The features are upsampled to the photo's own size as it is shown, far beyond the target grid.

    Raises:
        ValueError: the upsampler cannot give that size, or no file can be used.
    """
    pairs = held_out_pairs(
        files,
        teacher,
        crop=config.crop,
        down=config.down[0],
        guidance=SIDE,
        guidance_max=SIDE,
        resize=config.resize,
        min_side=config.min_side,
    )
    pair = next(pairs, None)
    if pair is None:
        raise ValueError("no image can be drawn")
    size = (pair.guidance.shape[-2], pair.guidance.shape[-1])
    basis = PcaBasis.fit(pair.low[0])
    panels = [
        ("photo", photo(pair.guidance[0])),
        ("input {}x{}".format(*pair.low.shape[-2:]), basis.picture(pair.low[0])),
        ("bilinear", basis.picture(bilinear(pair.guidance, pair.low, size)[0])),
        (config.upsampler, basis.picture(model(pair.guidance, pair.small, size)[0].float())),
        ("target {}x{}".format(*pair.target.shape[-2:]), basis.picture(pair.target[0])),
    ]
    return side_by_side(panels, (SIDE, SIDE))

"""A picture of how far training has come: one image, its noisy copy and what the model makes of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn

from naf_hub.picture import photo, side_by_side

from .denoising_config import TrainConfig
from .noise import Noise
from .noisy_comparison import Protocol, clean_batches


@torch.no_grad()
def draw_preview(settings: TrainConfig, files: Sequence[Path], model: nn.Module, device: Any) -> Image.Image:
    """Noisy, restored and clean centre crop of the first usable file, at the middle level.

    Raises:
        ValueError: no file can be used.
    """
    protocol = Protocol(crop=settings.crop, resize=settings.resize, min_side=settings.min_side, batch=1)
    _, clean = next(clean_batches(files, protocol, {}), (None, None))
    if clean is None:
        raise ValueError("no image can be drawn")
    level = sum(settings.level) / len(settings.level)
    noise = Noise(settings.noise, level, level)
    noisy = noise.add(clean, settings.seed, "preview")
    panels = [
        (noise.words, photo(noisy[0])),
        (settings.restorer, photo(model(noisy.to(device))[0].float())),
        ("clean", photo(clean[0])),
    ]
    return side_by_side(panels, (clean.shape[-2], clean.shape[-1]))

"""The size a photo is brought to before its features are computed."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

# The long side is at most so many times the short side that is asked for.
LONGEST_RATIO = 4


def image_size(height: int, width: int, size: str, patch: int) -> tuple[int, int]:
    """(H, W) an image is resized to.

    One number is the shorter side: the other follows the aspect ratio and both are rounded to the patch. The longer
    side is at most :data:`LONGEST_RATIO` times that number; then the shorter one follows.

    Raises:
        ValueError: not a size.
    """
    if size == "native":
        return height, width
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", size)
    if match is None or int(match[1]) < 1 or (match[2] and int(match[2]) < 1):
        raise ValueError(f"size {size!r} is not N, HxW or 'native'")
    if match[2]:
        return int(match[1]), int(match[2])
    scale = int(match[1]) * min(1 / min(height, width), LONGEST_RATIO / max(height, width))
    return tuple(max(patch, round(side * scale / patch) * patch) for side in (height, width))  # pyright: ignore


def is_bounded(height: int, width: int, size: str) -> bool:
    """Whether :func:`image_size` had to bound the longer side."""
    return size.isdigit() and max(height, width) > LONGEST_RATIO * min(height, width)


def read_for(backbone: nn.Module, source: Path, size: str) -> tuple[Tensor, tuple[int, int]]:
    """A photo (1, 3, H, W) as it is, and the (H, W) it is to be brought to.

    Raises:
        ImageError: the image cannot be read.
    """
    from .images import read_image

    image = read_image(source)[None]
    height, width = image.shape[-2:]
    return image, image_size(height, width, size, getattr(backbone, "patch_size", 1))


def resize(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A photo (1, 3, H, W) brought to ``size``, antialiased; unchanged where it has that size."""
    import torch.nn.functional as F

    if size == tuple(image.shape[-2:]):
        return image
    return F.interpolate(image, size, mode="bilinear", antialias=True).clamp(0, 1)

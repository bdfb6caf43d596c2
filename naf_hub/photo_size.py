"""Sizes that photos are brought to before their features are computed, and places in them as users write them."""

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


def parse_pixels(text: str, form: str) -> tuple[int, ...]:
    """Whole numbers of pixels as ``form`` (``"x,y"``) asks for them.

    Raises:
        ValueError: other numbers, or not so many.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != len(form.split(",")) or not all(re.fullmatch(r"-?\d+", part) for part in parts):
        raise ValueError(f"{text!r} is not {form}, in whole pixels of the photo")
    return tuple(map(int, parts))


def point_in(at: tuple[int, int], photo: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Row and column, in a photo brought to ``size`` (H, W), of the point ``at`` = (x, y) of the photo (H, W).

    Raises:
        ValueError: the point lies outside the photo.
    """
    x, y = at
    if not (0 <= x < photo[1] and 0 <= y < photo[0]):
        raise ValueError(
            f"{x},{y} lies outside the photo, whose x goes from 0 to {photo[1] - 1} and y from 0 to {photo[0] - 1}"
        )
    return tuple(int((n + 0.5) * new / old) for n, new, old in zip((y, x), size, photo, strict=True))  # pyright: ignore


def box_in(
    box: tuple[int, int, int, int], photo: tuple[int, int], size: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns, in a photo brought to ``size`` (H, W), of ``box`` = (x, y, w, h) of the photo (H, W).

    Raises:
        ValueError: the box is empty or reaches out of the photo.
    """
    x, y, w, h = box
    if not (x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= photo[1] and y + h <= photo[0]):
        raise ValueError(
            f"{x},{y},{w},{h} (left, top, width, height) does not lie in the photo of {photo[1]} x {photo[0]} pixels"
        )
    found = []
    for start, length, new, old in ((y, h, size[0], photo[0]), (x, w, size[1], photo[1])):
        first = min(round(start * new / old), new - 1)
        found.append(slice(first, max(first + 1, round((start + length) * new / old))))
    return found[0], found[1]

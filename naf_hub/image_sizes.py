"""Sizes that images are brought to: one grammar and one rule for the command line and for Python."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

# N (the shorter side), (H, W), or None: as it is.
ImageSize = int | tuple[int, int] | None
NATIVE = "native"
# The long side is at most so many times the short side that is asked for.
LONGEST_RATIO = 4
# Of a side; a longer number is a slip of the hand, not a picture.
MOST_DIGITS = 7


def parse_image_size(text: str, native: bool = True) -> ImageSize:
    """``"448"`` (the shorter side), ``"448x640"`` (H x W exactly) or ``"native"``.

    Raises:
        ValueError: not a size, or ``"native"`` where that is no choice.
    """
    text = text.strip()
    if native and text == NATIVE:
        return None
    if re.fullmatch(r"[0-9]+(x[0-9]+)?", text) and max(map(len, text.split("x"))) > MOST_DIGITS:
        raise ValueError(f"size {text!r} is too large: a side has at most {MOST_DIGITS} digits")
    match = re.fullmatch(r"([0-9]+)(?:x([0-9]+))?", text)
    if match is None or 0 in (sides := [int(side) for side in match.groups() if side is not None]):
        raise ValueError(
            f"size {text!r} is not N, HxW or 'native'" if native else f"size {text!r} is not N or HxW"
        )
    return sides[0] if len(sides) == 1 else (sides[0], sides[1])


def describe_image_size(size: ImageSize) -> str:
    """The text that :func:`parse_image_size` reads as ``size``."""
    if isinstance(size, tuple):
        return "x".join(map(str, size))
    return NATIVE if size is None else str(size)


def fit_size(height: int, width: int, size: ImageSize, patch: int = 1) -> tuple[int, int]:
    """(H, W) that an image of ``height`` x ``width`` pixels is brought to.

    One number is the shorter side: the other follows the aspect ratio and both are rounded to the patch. The longer
    side is at most :data:`LONGEST_RATIO` times that number; then the shorter one follows.
    """
    if size is None:
        return height, width
    if isinstance(size, tuple):
        return size
    scale = size * min(1 / min(height, width), LONGEST_RATIO / max(height, width))
    return tuple(max(patch, round(side * scale / patch) * patch) for side in (height, width))  # pyright: ignore


def square(size: ImageSize) -> tuple[int, int] | None:
    """(H, W) where N stands for a square, as of what has no aspect ratio of its own."""
    return (size, size) if isinstance(size, int) else size


def is_bounded(height: int, width: int, size: ImageSize) -> bool:
    """Whether :func:`fit_size` has to bound the longer side."""
    return isinstance(size, int) and max(height, width) > LONGEST_RATIO * min(height, width)


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images (B, 3, H, W) in [0, 1] at ``size`` (H, W): bilinear, antialiased as Pillow does."""
    import torch.nn.functional as F

    if tuple(images.shape[-2:]) == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)

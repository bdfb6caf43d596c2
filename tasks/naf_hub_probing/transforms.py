"""Geometry of image and label: the published shorter-side crop, or a resize of the whole picture."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# The shorter side, then a centre crop to the square; or the whole picture at H x W.
Size = int | tuple[int, int]


def require_sides(name: str, size: Size) -> None:
    """Require a size of at least one pixel."""
    if min(size if isinstance(size, tuple) else (size,)) < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")


def times(size: Size, factor: int) -> Size:
    """A size whose sides are so many times as long."""
    return size * factor if isinstance(size, int) else (size[0] * factor, size[1] * factor)


def shorter_side(height: int, width: int, size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Resized (H, W) with the shorter side at ``size``, and the (top, left) of its centre crop."""
    landscape = height <= width
    resized = (size, int(size * width / height)) if landscape else (int(size * height / width), size)
    return resized, (round((resized[0] - size) / 2), round((resized[1] - size) / 2))


def resize_image(image: Tensor, size: Size) -> Tensor:
    """Resize (3, H, W) floats, bilinear, antialiased as Pillow does, by the rule of ``Size``."""
    if isinstance(size, tuple):
        return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    resized, (top, left) = shorter_side(image.shape[-2], image.shape[-1], size)
    image = F.interpolate(image[None], resized, mode="bilinear", antialias=True)[0]
    return image[:, top : top + size, left : left + size]


def resize_label(label: Tensor, size: Size | None) -> Tensor:
    """Resize labels (H, W), integers or floats, by Pillow's nearest neighbour; ``None`` keeps their own size."""
    if size is None:
        return label
    square = isinstance(size, int)
    resized, (top, left) = shorter_side(label.shape[0], label.shape[1], size) if square else (size, (0, 0))
    if resized != tuple(label.shape):
        picture = Image.fromarray(label.numpy().astype(np.float32 if label.is_floating_point() else np.int32))
        picture = picture.resize((resized[1], resized[0]), Image.Resampling.NEAREST)
        label = torch.from_numpy(np.array(picture)).to(label.dtype)
    return label[top : top + size, left : left + size] if square else label


@dataclasses.dataclass(frozen=True)
class Geometry:
    """Sizes of image and label.

    Attributes:
        image: an int S for the published rule (shorter side to S, centre crop S x S), or (H, W) for the
            whole picture, aspect ratio not kept.
        label: the same for the label; ``None`` is S where the image is cropped to S, and the label's own
            size where the whole image is resized.
    """

    image: Size = 448
    label: Size | None = None

    def __post_init__(self) -> None:
        # A cropped image beside an uncropped label would pair pixels that do not show the same thing.
        if self.label is not None and isinstance(self.image, int) != isinstance(self.label, int):
            raise ValueError(
                f"image size {self.image} and label size {self.label} must both be one number (cropped) "
                "or both HEIGHTxWIDTH (whole picture)"
            )

    def apply(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        """Transform (3, H, W) floats and (h, w) integers."""
        label_size = self.image if self.label is None and isinstance(self.image, int) else self.label
        return resize_image(image, self.image), resize_label(label, label_size)

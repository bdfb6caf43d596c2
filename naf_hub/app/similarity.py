"""How like one pixel every other is, and pictures of such maps."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

# From dark to bright, in equal steps; the brightness grows evenly (the anchors of matplotlib's viridis).
COLOURS = np.array([(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)])
SHORT = 1e-8
"""A vector shorter than this has no direction; its cosine is 0."""


def cosines_to(features: Tensor, vector: Tensor) -> Tensor:
    """(H, W) cosines of a vector (C,) with each position of features (C, H, W)."""
    features, vector = features.float(), vector.float()
    lengths = torch.linalg.vector_norm(features, dim=0) * torch.linalg.vector_norm(vector)
    return torch.einsum("chw,c->hw", features, vector) / lengths.clamp_min(SHORT)


def similar_to(features: Tensor, at: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(h, w) cosines of features (C, h, w) with those at a pixel.

    Args:
        features: of a picture, at any resolution.
        at: row and column of the pixel.
        size: (H, W) of the picture that the pixel is of.

    Raises:
        ValueError: the pixel lies outside the picture.
    """
    if not (0 <= at[0] < size[0] and 0 <= at[1] < size[1]):
        raise ValueError(f"row {at[0]}, column {at[1]} lies outside the photo of {size[0]}x{size[1]} pixels")
    row, column = (at[axis] * features.shape[axis + 1] // size[axis] for axis in (0, 1))
    return cosines_to(features, features[:, row, column])


def heat_picture(values: Tensor, low: float, high: float, size: tuple[int, int]) -> Image.Image:
    """Picture of ``size`` (H, W) of values (h, w), each a block: dark at ``low``, bright at ``high``."""
    shares = ((values.detach().float().cpu() - low) / max(high - low, 1e-6)).clamp(0, 1).numpy()
    steps = np.linspace(0, 1, len(COLOURS))
    rgb = np.stack([np.interp(shares, steps, channel) for channel in COLOURS.T], -1)
    picture = Image.fromarray(rgb.round().astype(np.uint8))
    return picture.resize((size[1], size[0]), Image.Resampling.NEAREST)


def marked(picture: Image.Image, at: tuple[int, int]) -> Image.Image:
    """A copy of a picture with a ring around the pixel ``at`` (row, column)."""
    picture = picture.copy()
    draw, (y, x), radius = ImageDraw.Draw(picture), at, max(4, min(picture.size) // 50)
    for grown, colour in ((1, "black"), (0, "white")):
        edge = radius + grown
        draw.ellipse((x - edge, y - edge, x + edge, y + edge), outline=colour, width=2)
    return picture

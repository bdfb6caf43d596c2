"""The size of the image that guidance is computed from."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.sizes import are_equal, are_known, average_pool, larger, smaller


def guide_size(
    image_size: tuple[int, int], output_size: tuple[int, int], scale: int | None
) -> tuple[int, int]:
    """(height, width) to encode; all known sizes.

    Args:
        image_size: of the image at hand.
        output_size: of the guidance.
        scale: sides are at most so many times the output's; ``None``: as the published code has it, where an image
            with a side of more than four times the output's gets sides of at most four times the *smaller* output side.
    """
    (height, width), (rows, columns) = image_size, output_size
    if scale is not None:
        return min(height, scale * rows), min(width, scale * columns)
    if height <= 4 * rows and width <= 4 * columns:
        return image_size
    limit = 4 * min(output_size)
    return min(height, limit), min(width, limit)


def shrink(image: Tensor, output_size: tuple[int, int], scale: int | None) -> Tensor:
    """An image (B, C, H_img, W_img) of :func:`guide_size`: averaged, or by the published rule bilinear without
    antialiasing."""
    height, width = image.shape[-2:]
    if are_known(height, width, *output_size):
        size = guide_size((height, width), output_size, scale)
        if size == (height, width):
            return image
        return F.interpolate(image, size, mode="bilinear") if scale is None else average_pool(image, size)
    if scale is not None:
        return average_pool(
            image, (smaller(height, scale * output_size[0]), smaller(width, scale * output_size[1]))
        )
    excess = larger(0, height - 4 * output_size[0]) + larger(0, width - 4 * output_size[1])
    if are_equal((excess,), (0,)):
        return image
    # In arithmetic, for a condition would bind the graph: 1 where the image is to shrink, else its size stays.
    shrinks = smaller(1, excess)
    limit = 4 * smaller(*output_size)
    size = smaller(height, limit), smaller(width, limit)
    size = height - shrinks * (height - size[0]), width - shrinks * (width - size[1])
    return F.interpolate(image, size, mode="bilinear")

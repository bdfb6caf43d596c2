"""Photos cut to the square around an object, with the point in space that each of their pixels shows."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.errors import DatasetError
from naf_hub.images import read_image, stored_values

from .navi import View

# NAVI stores nearness: 65535 at a centimetre, half of it at two, 0 where nothing is known.
_NEAREST = 0.01
_LARGEST_VALUE = 65535
# What a file may be narrower or wider than the annotation says, for those made smaller are of whole pixels.
_ASPECT_TOLERANCE = 0.02
# Depths below this are taken for it where points are projected (as Probe3D does).
_LEAST_DEPTH = 1e-9


@dataclasses.dataclass(frozen=True)
class PointMap:
    """The square of a photo that shows an object.

    Attributes:
        image: (3, S, S) in [0, 1].
        points: (3, S, S) float32, metres in the camera's coordinates (x right, y down, z ahead); 0 where the depth is
            not known.
        focal: focal length in pixels of the square.
    """

    image: Tensor
    points: Tensor
    focal: float


def read_point_map(view: View, size: int) -> PointMap:
    """Photo and depth as the NAVI protocol of Probe3D prepares them; all resizing takes the nearest pixel.

    The short side is brought to ``size`` and the middle cut out; points follow from its depth, the centre of projection
    being that of the square; photo and points are cut to the object's square (:func:`bounding_square`), which is
    brought to ``size`` again.

    Args:
        view: of the object.
        size: side of the squares in pixels.

    Raises:
        FileNotFoundError: photo or depth is missing.
        ImageError: one of them cannot be read.
        DatasetError: the depth is no grey picture of 16 bits or says nothing in the middle of the photo, or the files
            are of another shape than the annotation says.
    """
    image, depth = read_image(view.image), read_depth(view.depth)
    for values, path in ((image, view.image), (depth, view.depth)):
        (height, width), (tall, wide) = values.shape[-2:], view.size
        if abs(height * wide / (width * tall) - 1) > _ASPECT_TOLERANCE:
            raise DatasetError(
                f"{path} is {height}x{width} pixels, which is not the shape that {view.annotations} says: {tall}x{wide}"
            )
    focal = view.focal * size / min(view.size)
    image, depth = middle_square(image, size), middle_square(depth[None], size)[0]
    if not depth.any():
        raise DatasetError(f"{view.depth}: no depth in the middle of the photo")
    points = back_project(depth, focal)
    top, left, side = bounding_square(depth > 0)
    image, points = (
        _nearest(values[:, top : top + side, left : left + side], (size, size)) for values in (image, points)
    )
    return PointMap(image, points, focal * size / side)


def read_depth(path: Path) -> Tensor:
    """(H, W) float32 metres of a depth file of NAVI, 16 bits of 1 / depth; 0 where nothing is known.

    Raises:
        FileNotFoundError, ImageError: missing, or not a readable picture.
        DatasetError: not grey, or not of 16 bits.
    """
    mode, values = stored_values(path)
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.dtype.itemsize < 2:
        raise DatasetError(f"{path}: depths must be a grey picture of 16 bits, not {mode} of {values.dtype}")
    nearness = torch.from_numpy(values.astype(np.float32))
    return torch.where(nearness > 0, _NEAREST * _LARGEST_VALUE / nearness, 0.0)


def middle_square(values: Tensor, size: int) -> Tensor:
    """(C, size, size): the middle of (C, H, W), whose short side is brought to ``size`` by nearest pixels."""
    height, width = (int(size * length / min(values.shape[1:])) for length in values.shape[1:])
    values = _nearest(values, (height, width))
    # Halves to the even number, as torchvision's CenterCrop has it.
    top, left = (round((length - size) / 2) for length in (height, width))
    return values[:, top : top + size, left : left + size]


def back_project(depth: Tensor, focal: float) -> Tensor:
    """The points that a square camera sees at the centres of its pixels.

    Args:
        depth: (S, S) metres.
        focal: focal length in pixels; the centre of projection is that of the square.

    Returns:
        (3, S, S) metres: x to the right, y down, z ahead.
    """
    size = depth.shape[-1]
    along = (torch.arange(size, dtype=depth.dtype) + 0.5 - size / 2) / focal
    return torch.stack([depth * along, depth * along[:, None], depth])


def bounding_square(known: Tensor) -> tuple[int, int, int]:
    """Top, left and side of the square around what is known of a square map (S, S); something must be.

    The side is the distance between the first and the last row or column that are known, the larger one, so that the
    last of them is left out, as in Probe3D. Along the shorter one the square lies about the middle; where that leaves
    the map it ends with the object instead, or begins with the map.
    """
    spans = [known.any(dim).nonzero().flatten()[[0, -1]].tolist() for dim in (1, 0)]
    side = max(1, *(last - first for first, last in spans))
    starts = []
    for first, last in spans:
        spare = side - (last - first)
        start = first - spare // 2
        starts.append(start if 0 <= start <= known.shape[0] - side else max(0, first - spare))
    return starts[0], starts[1], side


def project(points: Tensor, focal: float) -> Tensor:
    """Pixels (x, y), from the centre of projection on, of points (N, 3) in the camera's coordinates: (N, 2)."""
    return focal * points[:, :2] / points[:, 2:].clamp(min=_LEAST_DEPTH)


def _nearest(values: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(values[None], size, mode="nearest")[0]

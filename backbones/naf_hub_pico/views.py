"""Training material for distillation: augmented views of images with the teacher's features beside them."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.images import read_image

STRIDE = 16
SMALLEST_SIDE = 96


class View(NamedTuple):
    """An 8-bit image (3, 16h, 16w) and the teacher's half-precision features (C, h, w) of it."""

    image: Tensor
    features: Tensor


def multiple(length: float) -> int:
    return max(1, round(length / STRIDE)) * STRIDE


def augment(image: Tensor, sides: tuple[int, int], longest: int, rng: random.Random) -> Tensor:
    """A random view (3, H, W) of ``image`` in [0, 1], H and W multiples of 16.

    The short side is drawn log-uniformly from ``sides``, the aspect ratio varies by up to 5 % either way, the
    long side is cropped to ``longest`` pixels; half of the views are mirrored, and brightness, contrast and
    saturation vary by up to 20 %.
    """
    low, high = sides
    height, width = image.shape[-2:]
    scale = low * (high / low) ** rng.random() / min(height, width)
    aspect = 1.1 ** rng.uniform(-0.5, 0.5)
    size = (multiple(height * scale * aspect), multiple(width * scale / aspect))
    view = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
    view = crop(view, min(size[0], longest), min(size[1], longest), rng)[0]
    if rng.random() < 0.5:
        view = view.flip(-1)
    grey = view.mean(0, keepdim=True)
    view = grey + (view - grey) * rng.uniform(0.8, 1.2)
    mean = view.mean()
    return ((view - mean) * rng.uniform(0.8, 1.2) + mean * rng.uniform(0.8, 1.2)).clamp(0, 1)


def crop(image: Tensor, height: int, width: int, rng: random.Random) -> tuple[Tensor, tuple[int, int]]:
    """A random ``height`` x ``width`` part whose corner lies on the 16-pixel grid, and its grid position."""
    top = rng.randint(0, (image.shape[-2] - height) // STRIDE)
    left = rng.randint(0, (image.shape[-1] - width) // STRIDE)
    y, x = top * STRIDE, left * STRIDE
    return image[..., y : y + height, x : x + width], (top, left)


class ViewPool:
    """A bounded pool of views: the teacher runs once a view, and every view serves several random crops before
    a newer one takes its place.

    Args:
        paths: image files; those with a side below 96 pixels are left out when drawn.
        teacher: (1, 3, H, W) in [0, 1] to (1, C, H/16, W/16).
        capacity: views held; a view takes about 1 MB.
        crop_size: side in pixels of the crops, a multiple of 16.
        sides: range of the short side of views.
    """

    def __init__(
        self,
        paths: list[Path],
        teacher: Callable[[Tensor], Tensor],
        *,
        capacity: int,
        crop_size: int,
        sides: tuple[int, int],
        seed: int,
    ) -> None:
        if crop_size % STRIDE or crop_size > sides[0]:
            raise ValueError(f"crop size {crop_size} must be a multiple of {STRIDE} and at most {sides[0]}")
        self.paths = list(paths)
        self.teacher = teacher
        self.capacity = capacity
        self.crop_size = crop_size
        self.sides = sides
        self.rng = random.Random(seed)
        self.views: list[View] = []
        self._queue: list[Path] = []
        self._oldest = 0

    def _draw(self) -> Tensor:
        for _ in range(100):
            if not self._queue:
                self._queue = self.rng.sample(self.paths, len(self.paths))
            image = read_image(self._queue.pop())
            if min(image.shape[-2:]) >= SMALLEST_SIDE:
                return augment(image, self.sides, int(1.5 * self.sides[1]), self.rng)
        raise ValueError(f"no image with both sides of at least {SMALLEST_SIDE} pixels among 100 drawn")

    def renew(self) -> None:
        """Add a fresh view, in place of the oldest once the pool is full."""
        image = (self._draw() * 255).round().to(torch.uint8)
        with torch.no_grad():
            features = self.teacher(image[None].float() / 255)[0]
        expected = (image.shape[-2] // STRIDE, image.shape[-1] // STRIDE)
        if tuple(features.shape[-2:]) != expected:
            raise ValueError(
                f"teacher gives a grid of {tuple(features.shape[-2:])} where {expected} was expected"
            )
        view = View(image, features.half())
        if len(self.views) < self.capacity:
            self.views.append(view)
        else:
            self.views[self._oldest] = view
            self._oldest = (self._oldest + 1) % self.capacity

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C,) of the teacher's channels over the present views."""
        cells = torch.cat([view.features.flatten(1) for view in self.views], dim=1).float()
        return cells.mean(1), cells.std(1)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Images (size, 3, crop, crop) in [0, 1] and teacher features (size, C, crop/16, crop/16)."""
        images, targets = [], []
        cells = self.crop_size // STRIDE
        for view in self.rng.sample(self.views, min(size, len(self.views))):
            image, (top, left) = crop(view.image, self.crop_size, self.crop_size, self.rng)
            images.append(image.float() / 255)
            targets.append(view.features[:, top : top + cells, left : left + cells].float())
        return torch.stack(images), torch.stack(targets)

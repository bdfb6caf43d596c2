"""Training material for distillation: augmented views of images with the teacher's features beside them."""

from __future__ import annotations

import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub import Backbone
from naf_hub.images import read_image

STRIDE = 16
SMALLEST_SIDE = 96


class View(NamedTuple):
    """An 8-bit image (3, 16h, 16w) and the teacher's half-precision features (C, h, w) of it."""

    image: Tensor
    features: Tensor


def on_pico_grid(teacher: Backbone) -> Callable[[Tensor], Tensor]:
    """Features (1, C, H/16, W/16) of images (1, 3, H, W) from a teacher of any patch size.

    A teacher of other patches gets the image resized, so that each of its cells covers 16 pixels of the original.
    """
    patch = teacher.patch_size

    def features(images: Tensor) -> Tensor:
        size = [length // STRIDE * patch for length in images.shape[-2:]]
        if patch != STRIDE:
            images = F.interpolate(images, size, mode="bilinear", antialias=True)
        return teacher(images)

    return features


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
    """A sliding window over an endless row of views: the teacher runs once a view, and every view serves several
    random crops before it leaves.

    View k is a pure function of the seed and k, and so are the views that a step may draw from: a continued run
    draws what an uninterrupted one would have drawn. Views are made when they are first drawn.

    Args:
        paths: image files; those with a side below 96 pixels are left out when drawn.
        teacher: (1, 3, H, W) in [0, 1] to (1, C, H/16, W/16).
        capacity: views in the window; a view takes about 1 MB.
        prefill, renew: views in the window before the first step, and how many enter it at each step; the oldest
            leave when there are more than ``capacity``.
        crop_size: side in pixels of the crops, a multiple of 16.
        sides: range of the short side of views.
        device: where the teacher runs.
    """

    def __init__(
        self,
        paths: list[Path],
        teacher: Callable[[Tensor], Tensor],
        *,
        capacity: int,
        prefill: int,
        renew: float,
        crop_size: int,
        sides: tuple[int, int],
        seed: int,
        device: torch.device | str = "cpu",
    ) -> None:
        if crop_size % STRIDE or crop_size > sides[0]:
            raise ValueError(f"crop size {crop_size} must be a multiple of {STRIDE} and at most {sides[0]}")
        self.paths = list(paths)
        self.teacher = teacher
        self.capacity, self.prefill, self.renew = capacity, prefill, Fraction(str(renew))
        self.crop_size = crop_size
        self.sides = sides
        self.seed, self.device = seed, device
        self.views: dict[int, View] = {}
        self._order: tuple[int, list[Path]] = (-1, [])

    def window(self, step: int) -> range:
        """Numbers of the views that ``step`` (counted from 0) draws from."""
        # Exact fractions: the number of views must not depend on how rounding errors add up.
        stop = self.prefill + int(self.renew * (step + 1))
        return range(max(0, stop - self.capacity), stop)

    def view(self, number: int) -> View:
        """The ``number``-th view, made unless it is held.

        Raises:
            ValueError: images too small, or a teacher whose cells do not tile the image.
        """
        if number not in self.views:
            self.views[number] = self._make(number)
        return self.views[number]

    def _make(self, number: int) -> View:
        image = (self._draw(number) * 255).round().to(torch.uint8)
        with torch.no_grad():
            features = self.teacher(image[None].to(self.device).float() / 255)[0].cpu()
        expected = (image.shape[-2] // STRIDE, image.shape[-1] // STRIDE)
        if tuple(features.shape[-2:]) != expected:
            raise ValueError(
                f"teacher gives a grid of {tuple(features.shape[-2:])} where {expected} was expected"
            )
        return View(image, features.half())

    def _draw(self, number: int) -> Tensor:
        draw = random.Random(f"{self.seed}/view/{number}")
        path = self._path(number)
        for _ in range(100):
            image = read_image(path)
            if min(image.shape[-2:]) >= SMALLEST_SIDE:
                return augment(image, self.sides, int(1.5 * self.sides[1]), draw)
            path = draw.choice(self.paths)
        raise ValueError(f"no image with both sides of at least {SMALLEST_SIDE} pixels among 100 drawn")

    def _path(self, number: int) -> Path:
        """Every image comes once in each ``len(paths)`` views, in a new order each time."""
        epoch, place = divmod(number, len(self.paths))
        if self._order[0] != epoch:
            order = random.Random(f"{self.seed}/order/{epoch}").sample(self.paths, len(self.paths))
            self._order = (epoch, order)
        return self._order[1][place]

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation (C,) of the teacher's channels over the first ``prefill`` views."""
        views = [self.view(number) for number in self.window(-1)]
        cells = torch.cat([view.features.flatten(1) for view in views], dim=1).float()
        return cells.mean(1), cells.std(1)

    def batch(self, step: int, size: int, place: int = 0, places: int = 1) -> tuple[Tensor, Tensor]:
        """Crops of different views, as far as there are so many.

        Args:
            step: decides which views and which crops, with the seed.
            size: number of crops.
            place, places: which of several equal batches of the step this is, and of how many.

        Returns:
            Images (size, 3, crop, crop) in [0, 1] and teacher features (size, C, crop/16, crop/16).
        """
        window = self.window(step)
        for number in [number for number in self.views if number < window.start]:
            del self.views[number]
        draw = random.Random(f"{self.seed}/batch/{step}")
        numbers = draw.sample(window, min(size * places, len(window)))
        corners = [random.Random(f"{self.seed}/crop/{step}/{i}") for i in range(len(numbers))]
        images, targets = [], []
        cells = self.crop_size // STRIDE
        for number, corner in list(zip(numbers, corners, strict=True))[place::places]:
            view = self.view(number)
            image, (top, left) = crop(view.image, self.crop_size, self.crop_size, corner)
            images.append(image.float() / 255)
            targets.append(view.features[:, top : top + cells, left : left + cells].float())
        return torch.stack(images), torch.stack(targets)

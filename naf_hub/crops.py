"""Square crops of image files, each a pure function of the seed, the file and the number of the view."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from .errors import ImageError
from .images import read_image


@dataclasses.dataclass(frozen=True)
class Cropping:
    """How crops are cut from image files. Lengths are pixels.

    Attributes:
        resize: short side every image is resized to (antialiased) before cropping; 0 keeps its size,
            enlarging only what is smaller than the crop.
        min_side: images with a shorter side are refused.
        random_crop, flip: random position (else the centre), random horizontal flip.
        seed: decides both, with the name of the file and the number of the view.
    """

    resize: int = 0
    min_side: int = 0
    random_crop: bool = False
    flip: bool = False
    seed: int = 0

    def cut(self, path: Path, view: int, side: int) -> Tensor:
        """The ``view``-th crop (3, side, side) in [0, 1] of a file, the same whenever it is asked for.

        Raises:
            ImageError: unreadable, or its short side is under ``min_side``.
        """
        image = read_image(path)
        short = min(image.shape[-2:])
        if short < self.min_side:
            raise ImageError(f"{path}: short side {short} is under min_side = {self.min_side}")
        image = enlarge_or_shrink(image, self.resize, side)
        draw = random.Random(f"{self.seed}/crop/{path.name}/{view}")
        spare = [length - side for length in image.shape[-2:]]
        top, left = [draw.randint(0, s) if self.random_crop else s // 2 for s in spare]
        crop = image[:, top : top + side, left : left + side]
        return crop.flip(-1) if self.flip and draw.random() < 0.5 else crop


def enlarge_or_shrink(image: Tensor, resize: int, side: int) -> Tensor:
    """``image`` (3, H, W) with its short side at ``resize`` pixels (0: as it is) and at least ``side``."""
    height, width = image.shape[-2:]
    short = max(resize or min(height, width), side)
    if short == min(height, width):
        return image
    size = [max(side, round(length * short / min(height, width))) for length in (height, width)]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)

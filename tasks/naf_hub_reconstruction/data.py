"""Images as square crops, each a pure function of the seed, the file and the number of the view."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Sequence
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import Dataset

from naf_hub.errors import ImageError
from naf_hub.images import read_image

from .cache import CropFeatures
from .plan import Item


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


@dataclasses.dataclass
class Crop:
    """One image of a batch, as a worker hands it over.

    Attributes:
        path: the file.
        image: (3, side, side) in [0, 1]; ``None`` where the cache has the features.
        cached: tensors of the cache, if it has them.
        skipped: files passed over to get here, each with its reason.
    """

    path: Path
    item: Item
    image: Tensor | None
    cached: dict[str, Tensor] | None
    skipped: dict[str, str]


class Crops(Dataset[Crop]):
    """Square crops of image files; the next readable image stands in for a broken one.

    Args:
        cropping: how they are cut.
        files: images, in a fixed order.
        caches: of each backbone, where features of earlier epochs may be found, sparing the decoding.
    """

    def __init__(
        self, cropping: Cropping, files: Sequence[Path], caches: Sequence[CropFeatures | None] = (None,)
    ) -> None:
        self.cropping, self.files, self.caches = cropping, files, caches

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, item: Item) -> Crop:
        """The crop of ``item``.

        Raises:
            ImageError: not one of the files can be used.
        """
        skipped: dict[str, str] = {}
        cache = self.caches[item.sizes.teacher]
        for offset in range(len(self.files)):
            path = self.files[(item.index + offset) % len(self.files)]
            cached = cache.load(path, item) if cache else None
            if cached is not None:
                return Crop(path, item, None, cached, skipped)
            try:
                return Crop(path, item, self.crop(path, item.view, item.sizes.crop), None, skipped)
            except (ImageError, OSError) as error:
                skipped[str(path)] = str(error)
        first = next(iter(skipped.values()), "the list is empty")
        raise ImageError(f"none of the {len(self.files)} images can be used; the first: {first}")

    def crop(self, path: Path, view: int, side: int) -> Tensor:
        """The ``view``-th crop of a file, the same whenever it is asked for.

        Raises:
            ImageError: unreadable, or its short side is under ``min_side``.
        """
        cropping, image = self.cropping, read_image(path)
        short = min(image.shape[-2:])
        if short < cropping.min_side:
            raise ImageError(f"{path}: short side {short} is under min_side = {cropping.min_side}")
        image = enlarge_or_shrink(image, cropping.resize, side)
        draw = random.Random(f"{cropping.seed}/crop/{path.name}/{view}")
        spare = [length - side for length in image.shape[-2:]]
        top, left = [draw.randint(0, s) if cropping.random_crop else s // 2 for s in spare]
        crop = image[:, top : top + side, left : left + side]
        return crop.flip(-1) if cropping.flip and draw.random() < 0.5 else crop


def enlarge_or_shrink(image: Tensor, resize: int, side: int) -> Tensor:
    """``image`` (3, H, W) with its short side at ``resize`` pixels (0: as it is) and at least ``side``."""
    height, width = image.shape[-2:]
    short = max(resize or min(height, width), side)
    if short == min(height, width):
        return image
    size = [max(side, round(length * short / min(height, width))) for length in (height, width)]
    return F.interpolate(image[None], size, mode="bilinear", antialias=True)[0].clamp(0, 1)

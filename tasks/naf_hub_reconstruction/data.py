"""Images as square crops, each a pure function of the seed, the file and the number of the view."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.utils.data import Dataset

from naf_hub.crops import Cropping
from naf_hub.errors import ImageError

from .cache import CropFeatures
from .plan import Item


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
                return Crop(path, item, self.cropping.cut(path, item.view, item.sizes.crop), None, skipped)
            except (ImageError, OSError) as error:
                skipped[str(path)] = str(error)
        first = next(iter(skipped.values()), "the list is empty")
        raise ImageError(f"none of the {len(self.files)} images can be used; the first: {first}")

"""Pictures and what is known of their pixels, in pairs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from naf_hub.errors import ImageError


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    """One picture, ready for the backbone.

    Attributes:
        position: index in the folder.
        image: (3, H, W) floats in [0, 1].
        label: (h, w) int64 class indices, or float32 depths in metres; ``IGNORE`` where nothing is known.
    """

    position: int
    image: Tensor
    label: Tensor


class Pairs(Dataset[LabelledImage]):
    """One split of a data set.

    Attributes:
        files: all that is read, for telling whether it changed.
        facts: what a continued training must share beside them: plain JSON data.
        counted: what :meth:`count` counts, in words.
        nothing: what is wrong where nothing is known of any pixel.
        unlabelled: number of pictures that were left out since nothing is known of them.
    """

    files: Sequence[Path]
    facts: Mapping[str, Any]
    counted: tuple[str, ...]
    nothing: str = "every label is ignored"
    unlabelled: int = 0

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, position: int) -> LabelledImage:
        """Read one pair.

        Raises:
            ImageError: a picture cannot be read.
            DatasetError: its label does not fit.
        """
        raise NotImplementedError

    def count(self, label: Tensor) -> Tensor:
        """int64 numbers of the pixels of a label, one for each of ``counted``."""
        raise NotImplementedError


class Readable(Dataset["LabelledImage | ImageError"]):
    """Pairs whose broken pictures come out as the error, so that a caller can count and skip them."""

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> LabelledImage | ImageError:
        try:
            return self.pairs[position]
        except ImageError as error:
            return error

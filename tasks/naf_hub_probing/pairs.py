"""Pictures and what is known of their pixels, in pairs."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset

from naf_hub.errors import DatasetError, ImageError
from naf_hub.image_files import files_below, has_image_name

IGNORE = -1
_ASPECT_TOLERANCE = 0.02


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


def spread(items: list[Any], limit: int | None) -> list[Any]:
    """At most ``limit`` of the items, evenly spaced."""
    if limit is None or limit >= len(items):
        return items
    return [items[i * len(items) // limit] for i in range(limit)]


def pair_files(
    images: Path, labels: Path, layout: str, out: str | os.PathLike[str] | None
) -> tuple[list[tuple[Path, Path]], int]:
    """Files of pictures and labels that match by name without suffix, sorted, and the number of further pictures.

    Args:
        images, labels: the folders.
        layout: what was expected, for messages.
        out: folder of results, which is not searched.

    Raises:
        DatasetError: a folder is missing or empty, or a label has no image.
    """
    for part in (images, labels):
        if not part.is_dir():
            raise DatasetError(f"no folder {part}; expected {layout}")
    left_out = () if out is None else (Path(out).resolve(),)
    pictures, labelled = _by_stem(images, left_out), _by_stem(labels, left_out)
    if not labelled:
        raise DatasetError(f"no picture in {labels}; expected {layout}")
    for stem, label in labelled.items():
        if stem not in pictures:
            raise DatasetError(f"{label}: no image of that name in {images}")
    return [(pictures[stem], labelled[stem]) for stem in sorted(labelled)], len(
        pictures.keys() - labelled.keys()
    )


def require_same_shape(image: Tensor, label: Tensor, image_path: Path, label_path: Path) -> None:
    """Image (3, H, W) and label (h, w) must show the same section.

    Raises:
        DatasetError: their shapes differ by more than rounding.
    """
    skew = (image.shape[2] * label.shape[0]) / (image.shape[1] * label.shape[1])
    if abs(skew - 1) <= _ASPECT_TOLERANCE:
        return
    turned = " (one of them turned by its EXIF data?)" if tuple(label.shape) == image.shape[:0:-1] else ""
    raise DatasetError(
        f"{label_path}: label is {label.shape[0]}x{label.shape[1]}, its image {image_path} "
        f"{image.shape[1]}x{image.shape[2]}: not the same shape{turned}; save both as they are viewed"
    )


def _by_stem(folder: Path, left_out: tuple[Path, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(files_below(folder, left_out)):
        if not has_image_name(path):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DatasetError(f"{path} and {found[stem]} have the same name; keep one")
        found[stem] = path
    return found

"""Pictures and what is known of their pixels: files in two folders, matched by name."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from .errors import DatasetError
from .image_files import files_below, has_image_name

_ASPECT_TOLERANCE = 0.02


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


def read_list(listed: Path) -> list[str]:
    """The names in a text file, one a line.

    Raises:
        DatasetError: there is none, or the file is no text.
    """
    try:
        names = listed.read_text(encoding="utf-8").split()
    except UnicodeDecodeError as error:
        raise DatasetError(f"{listed}: no text; unpack the data set again") from error
    if not names:
        raise DatasetError(f"{listed} names no picture")
    return names


def require_files(pairs: list[tuple[Path, Path]], listed: Path) -> list[tuple[Path, Path]]:
    """The pairs, all of which must be there.

    Raises:
        DatasetError: one is not; names it, and where it was ``listed``.
    """
    for path in (path for pair in pairs for path in pair):
        if not path.is_file():
            raise DatasetError(f"no file {path}, which {listed} names; unpack the data set again")
    return pairs


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


def require_like_sides(pairs: Iterable[tuple[Path, Path]], *, exactly: bool = False) -> None:
    """Pictures and labels must have like sides, by the heads of their files: told before a long run, not in its middle.

    Sides may be swapped, for EXIF data may turn one of the two; what cannot be read is left to who reads it.

    Args:
        pairs: files of pictures and of what is known of their pixels.
        exactly: the same sides; by default the same section, as :func:`require_same_shape` has it.

    Raises:
        DatasetError: those of a pair differ; names both files.
    """
    for picture, label in pairs:
        sides, others = picture_sides(picture), picture_sides(label)
        if not sides or not others or sides == others:
            continue
        skew = (sides[0] * others[1]) / (sides[1] * others[0])
        if exactly or abs(skew - 1) > _ASPECT_TOLERANCE:
            wanted = "the same size" if exactly else "the same section"
            raise DatasetError(
                f"{label} has sides of {others[0]} and {others[1]} pixels, its picture {picture} of {sides[0]} and "
                f"{sides[1]}: not {wanted}; unpack the data set again, or save both as they are viewed"
            )


def picture_sides(path: Path) -> tuple[int, int] | None:
    """Those of a picture in pixels, the shorter first, by the head of its file; nothing of what cannot be read."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                return min(opened.size), max(opened.size)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


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

"""What ``naf-hub segment`` writes: a map of class numbers, and a picture with a legend."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from naf_hub.atomic import atomic_file
from naf_hub.legend import class_colours, shaded, with_legend
from naf_hub.made_with import KEY, require_free
from naf_hub.picture import photo, side_by_side

MOST_CLASSES = 256
LONGEST = 1024
"""Pixels of the long side of each panel."""


def targets(out: Path, source: Path, force: bool) -> tuple[Path, Path]:
    """Where the class map and the picture of a photo go.

    Raises:
        FileExistsError: see :func:`naf_hub.made_with.require_free`.
    """
    paths = out / f"{source.stem}.classes.png", out / f"{source.stem}.segments.png"
    for path in paths:
        require_free(path, force)
    return paths


def write_class_map(path: Path, labels: Tensor, made: str) -> None:
    """Write labels (H, W) as an 8-bit PNG with a palette, whose values are the numbers of the classes."""
    picture = Image.fromarray(labels.numpy().astype(np.uint8))
    picture.putpalette([part for colour in class_colours(MOST_CLASSES) for part in colour])
    _save(path, picture, made)


def write_picture(
    path: Path, image: Tensor, labels: Tensor, names: Sequence[str], caption: str, made: str
) -> None:
    """Write the photo (3, H, W) beside its classes (H, W), above a legend with the share of each."""
    shown = photo(image)
    shown.thumbnail((LONGEST, LONGEST))
    size = shown.height, shown.width
    colours = class_colours(len(names))
    classes = Image.fromarray(np.array(colours, np.uint8)[labels.numpy()]).resize(
        shown.size, Image.Resampling.NEAREST
    )
    panels = [("photo", shown), (caption, shaded(shown, classes))]
    sheet = side_by_side(panels, size)
    found = zip(names, shares(labels, len(names)), strict=True)
    texts = [f"{name} {100 * share:.1f} %" for name, share in found]
    _save(path, with_legend(sheet, list(zip(texts, colours, strict=True))), made)


def shares(labels: Tensor, count: int) -> list[float]:
    """Share of the pixels that each class has."""
    return (torch.bincount(labels.flatten(), minlength=count).double() / labels.numel()).tolist()


def _save(path: Path, picture: Image.Image, made: str) -> None:
    texts = PngInfo()
    texts.add_text(KEY, made)
    with atomic_file(path) as temporary:
        picture.save(temporary, pnginfo=texts)

"""What ``naf-hub segment`` writes: a map of class numbers, and a picture with a legend."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from naf_hub.atomic import atomic_file
from naf_hub.made_with import KEY, read_record
from naf_hub.picture import photo, side_by_side

MOST_CLASSES = 256
LONGEST = 1024
"""Pixels of the long side of each panel."""
OPACITY = 0.6
LINE, SWATCH = 22, 14


def targets(out: Path, source: Path, force: bool) -> tuple[Path, Path]:
    """Where the class map and the picture of a photo go.

    Raises:
        FileExistsError: there is a file that stays: one that naf-hub did not make, or any without ``force``.
    """
    paths = out / f"{source.stem}.classes.png", out / f"{source.stem}.segments.png"
    for path in paths:
        if path.is_symlink() or path.exists():
            if path.is_symlink() or read_record(path) is None:
                raise FileExistsError(
                    f"{path} exists and is no result of naf-hub; it stays: choose another -o"
                )
            if not force:
                raise FileExistsError(f"{path} exists: use --force to make it anew, or another -o")
    return paths


def palette(count: int) -> list[tuple[int, int, int]]:
    """RGB of so many classes, 0 to 255: hues by the golden ratio, so that neighbours differ."""
    colours = []
    for number in range(count):
        value, saturation = ((1.0, 0.75), (0.7, 0.9), (0.9, 0.45))[number // 3 % 3]
        rgb = colorsys.hsv_to_rgb(number * 0.618034 % 1, saturation, value)
        colours.append(tuple(round(255 * part) for part in rgb))
    return colours


def write_class_map(path: Path, labels: Tensor, made: str) -> None:
    """Write labels (H, W) as an 8-bit PNG with a palette, whose values are the numbers of the classes."""
    picture = Image.fromarray(labels.numpy().astype(np.uint8))
    picture.putpalette([part for colour in palette(MOST_CLASSES) for part in colour])
    _save(path, picture, made)


def write_picture(
    path: Path, image: Tensor, labels: Tensor, names: Sequence[str], caption: str, made: str
) -> None:
    """Write the photo (3, H, W) beside its classes (H, W), above a legend with the share of each."""
    shown = photo(image)
    shown.thumbnail((LONGEST, LONGEST))
    size = shown.height, shown.width
    colours = np.array(palette(len(names)), np.uint8)
    classes = Image.fromarray(colours[labels.numpy()]).resize(shown.size, Image.Resampling.NEAREST)
    panels = [("photo", shown), (caption, Image.blend(shown, classes, OPACITY))]
    sheet = side_by_side(panels, size)
    _save(path, _with_legend(sheet, names, shares(labels, len(names))), made)


def shares(labels: Tensor, count: int) -> list[float]:
    """Share of the pixels that each class has."""
    return (torch.bincount(labels.flatten(), minlength=count).double() / labels.numel()).tolist()


def _with_legend(sheet: Image.Image, names: Sequence[str], found: Sequence[float]) -> Image.Image:
    font = ImageFont.load_default(size=13)
    texts = [f"{name} {100 * share:.1f} %" for name, share in zip(names, found, strict=True)]
    measure = ImageDraw.Draw(sheet)
    column = SWATCH + 10 + int(max(measure.textlength(text, font=font) for text in texts)) + 14
    columns = max(1, sheet.width // column)
    rows = -(-len(texts) // columns)
    whole = Image.new("RGB", (max(sheet.width, column), sheet.height + rows * LINE + 6), "white")
    whole.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, (text, colour) in enumerate(zip(texts, palette(len(texts)), strict=True)):
        x, y = number % columns * column + 4, sheet.height + 6 + number // columns * LINE
        draw.rectangle((x, y, x + SWATCH, y + SWATCH), fill=colour, outline="black")
        draw.text((x + SWATCH + 6, y - 1), text, fill="black", font=font)
    return whole


def _save(path: Path, picture: Image.Image, made: str) -> None:
    texts = PngInfo()
    texts.add_text(KEY, made)
    with atomic_file(path) as temporary:
        picture.save(temporary, pnginfo=texts)

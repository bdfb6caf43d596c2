"""Classes in colours, what the colours mean, and pictures below each other."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from .picture import FONT, SHEET_OF_FONT

Colour = tuple[int, int, int]
DARKEST = 0.5  # of a class's colour, where the picture is black


def class_colours(count: int) -> list[Colour]:
    """RGB of so many classes, 0 to 255: hues by the golden ratio, so that neighbours differ."""
    colours: list[Colour] = []
    for number in range(count):
        value, saturation = ((1.0, 0.75), (0.7, 0.9), (0.9, 0.45))[number // 3 % 3]
        red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, saturation, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def shaded(picture: Image.Image, classes: Image.Image) -> Image.Image:
    """Colours of classes, darker where the picture is dark: what is seen keeps the hue that a legend has.

    A blend would not: red over a bright sky is the pink of another class.

    Args:
        picture: any mode, of any colours.
        classes: RGB, of the same size.
    """
    light = np.asarray(picture.convert("L"), dtype=np.float32)[..., None] / 255
    colours = np.asarray(classes, dtype=np.float32) * (DARKEST + (1 - DARKEST) * light)
    return Image.fromarray(colours.round().astype(np.uint8))


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, on white."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def with_legend(sheet: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """The sheet above its legend, a swatch and a text for each entry, in columns."""
    letters = max(FONT, sheet.width // SHEET_OF_FONT)
    font, line = ImageFont.load_default(size=letters), round(letters * 1.7)
    column = letters + 10 + int(max(font.getlength(text) for text, _ in entries)) + letters
    columns = max(1, sheet.width // column)
    rows = -(-len(entries) // columns)
    whole = Image.new("RGB", (max(sheet.width, column), sheet.height + rows * line + 6), "white")
    whole.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, (text, colour) in enumerate(entries):
        x, y = number % columns * column + 4, sheet.height + 6 + number // columns * line
        draw.rectangle((x, y, x + letters, y + letters), fill=colour, outline="black")
        draw.text((x + letters + 6, y - 1), text, fill="black", font=font)
    return whole

"""Features as pictures: three principal components as red, green and blue; sheets of panels, and legends."""

from __future__ import annotations

import colorsys
import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CAPTION = 22  # pixels
LINE, SWATCH = 22, 14  # of a legend

Colour = tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class PcaBasis:
    """Mean, three components and colour range, fitted on one feature map and applied to others.

    Attributes:
        mean: (C,).
        components: (C, 3), orthonormal; each with its largest entry positive, so that colours are stable.
        low: (3,), 2nd percentile of the projections it was fitted on.
        high: (3,), 98th percentile.
    """

    mean: Tensor
    components: Tensor
    low: Tensor
    high: Tensor

    @classmethod
    def fit(cls, features: Tensor) -> PcaBasis:
        """Fit on features (C, h, w)."""
        cells = features.detach().float().cpu().flatten(1).T
        mean = cells.mean(0)
        _, _, v = torch.linalg.svd(cells - mean, full_matrices=False)
        components = torch.zeros(cells.shape[1], 3)
        components[:, : min(3, v.shape[0])] = v[:3].T  # fewer than three cells have fewer components
        peak = components.gather(0, components.abs().argmax(0, keepdim=True))
        components = components * torch.where(peak < 0, -1.0, 1.0)
        projected = (cells - mean) @ components
        low, high = projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0)
        return cls(mean, components, low, torch.maximum(high, low + 1e-6))

    def picture(self, features: Tensor) -> Image.Image:
        """RGB picture (H, W) of features (C, H, W)."""
        features = features.detach().float().cpu()
        projected = torch.einsum("chw,ck->hwk", features, self.components) - self.mean @ self.components
        rgb = ((projected - self.low) / (self.high - self.low)).clamp(0, 1)
        return Image.fromarray((rgb * 255).round().to(torch.uint8).numpy())


def side_by_side(panels: list[tuple[str, Image.Image]], size: tuple[int, int]) -> Image.Image:
    """Panels of ``size`` (H, W) in a row, each under its caption; smaller ones are enlarged blockwise."""
    height, width = size
    gap = 4
    sheet = Image.new("RGB", (width * len(panels) + gap * (len(panels) - 1), height + CAPTION), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for i, (caption, panel) in enumerate(panels):
        x = i * (width + gap)
        sheet.paste(panel.convert("RGB").resize((width, height), Image.Resampling.NEAREST), (x, CAPTION))
        while caption and draw.textlength(caption, font=font) > width - 6:
            caption = caption[:-1]
        draw.text((x + 3, 3), caption, fill="black", font=font)
    return sheet


def photo(image: Tensor) -> Image.Image:
    """RGB picture of an image (3, H, W) in [0, 1]."""
    array = (image.detach().float().cpu().clamp(0, 1) * 255).round().permute(1, 2, 0)
    return Image.fromarray(array.numpy().astype(np.uint8))


def stacked(rows: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other, on white."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), "white")
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def class_colours(count: int) -> list[Colour]:
    """RGB of so many classes, 0 to 255: hues by the golden ratio, so that neighbours differ."""
    colours: list[Colour] = []
    for number in range(count):
        value, saturation = ((1.0, 0.75), (0.7, 0.9), (0.9, 0.45))[number // 3 % 3]
        red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, saturation, value)
        colours.append((round(255 * red), round(255 * green), round(255 * blue)))
    return colours


def with_legend(sheet: Image.Image, entries: Sequence[tuple[str, Colour]]) -> Image.Image:
    """The sheet above its legend, a swatch and a text for each entry, in columns."""
    font = ImageFont.load_default(size=13)
    measure = ImageDraw.Draw(sheet)
    column = SWATCH + 10 + int(max(measure.textlength(text, font=font) for text, _ in entries)) + 14
    columns = max(1, sheet.width // column)
    rows = -(-len(entries) // columns)
    whole = Image.new("RGB", (max(sheet.width, column), sheet.height + rows * LINE + 6), "white")
    whole.paste(sheet, (0, 0))
    draw = ImageDraw.Draw(whole)
    for number, (text, colour) in enumerate(entries):
        x, y = number % columns * column + 4, sheet.height + 6 + number // columns * LINE
        draw.rectangle((x, y, x + SWATCH, y + SWATCH), fill=colour, outline="black")
        draw.text((x + SWATCH + 6, y - 1), text, fill="black", font=font)
    return whole

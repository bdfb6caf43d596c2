"""Features as pictures: three principal components as red, green and blue."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

CAPTION = 22  # pixels


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

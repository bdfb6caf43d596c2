"""Features as pictures: three principal components as red, green and blue; and pictures beside one another."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

# A basis is fitted on so many cells at the most, evenly spaced.
FITTED_CELLS = 8192
GAP = 4  # pixels between panels
# Captions can be read where a sheet fills the width of a page: their height grows with it.
FONT, SHEET_OF_FONT = 13, 72


@dataclasses.dataclass(frozen=True)
class PcaBasis:
    """Mean, three components and colour range, fitted on feature maps and applied to others.

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
    def fit(cls, *features: Tensor) -> PcaBasis:
        """Fit on the cells of one or several maps (C, h, w); of many cells on 8192, evenly spaced."""
        cells = torch.cat([one.detach().float().cpu().flatten(1).T for one in features])
        if len(cells) > FITTED_CELLS:
            cells = cells[torch.linspace(0, len(cells) - 1, FITTED_CELLS).long()]
        mean = cells.mean(0)
        _, _, v = torch.linalg.svd(cells - mean, full_matrices=False)
        components = torch.zeros(cells.shape[1], 3)
        components[:, : min(3, v.shape[0])] = v[:3].T  # fewer than three cells have fewer components
        peak = components.gather(0, components.abs().argmax(0, keepdim=True))
        components = components * torch.where(peak < 0, -1.0, 1.0)
        projected = (cells - mean) @ components
        low, high = projected.quantile(0.02, dim=0), projected.quantile(0.98, dim=0)
        return cls(mean, components, low, torch.maximum(high, low + 1e-6))

    def colours(self, features: Tensor) -> Tensor:
        """RGB in [0, 1] (3, H, W), on the CPU, of features (C, H, W)."""
        features = features.detach().float().cpu()
        projected = torch.einsum("chw,ck->khw", features, self.components)
        offset = self.mean @ self.components + self.low
        return ((projected - offset[:, None, None]) / (self.high - self.low)[:, None, None]).clamp(0, 1)

    def picture(self, features: Tensor) -> Image.Image:
        """RGB picture (H, W) of features (C, H, W)."""
        return photo(self.colours(features))


def pca_picture(
    features: Tensor | Sequence[Tensor], basis: PcaBasis | Tensor | Sequence[Tensor] | None = None
) -> Tensor | list[Tensor]:
    """Features as colours: three principal components as red, green and blue.

    Colours mean the same only within one basis: give the maps to compare in one call, or one ``basis`` to each call.

    Args:
        features: (C, H, W) or (B, C, H, W); or several such maps of one C, of any sizes.
        basis: what the components are fitted on: maps of the same C, low-resolution features say; or a fitted
            :class:`naf_hub.picture.PcaBasis`. By default all of ``features`` together.

    Returns:
        RGB in [0, 1] on the CPU, (3, H, W) or (B, 3, H, W); of several maps a list of them.

    Raises:
        TypeError: no tensors.
        ValueError: no maps, or maps of other shapes than these, of several C, or with values that are not finite.
    """
    maps = _checked_maps(features)
    if not isinstance(basis, PcaBasis):
        fitted = maps if basis is None else _checked_maps(basis)
        basis = PcaBasis.fit(*(sample for one in fitted for sample in one.reshape(-1, *one.shape[-3:])))
    channels = {one.shape[-3] for one in maps} | {len(basis.mean)}
    if len(channels) > 1:
        raise ValueError(f"maps and basis must have the same channels, got {sorted(channels)}")
    found = [
        basis.colours(one) if one.ndim == 3 else torch.stack([basis.colours(sample) for sample in one])
        for one in maps
    ]
    return found[0] if isinstance(features, Tensor) else found


def _checked_maps(maps: Tensor | Sequence[Tensor]) -> list[Tensor]:
    several = [maps] if isinstance(maps, Tensor) else list(maps)
    for one in several:
        if not isinstance(one, Tensor):
            raise TypeError(
                f"features must be a tensor (C, H, W) or (B, C, H, W), or several, got {type(maps).__name__} "
                f"with {type(one).__name__}"
            )
    if not several:
        raise ValueError("no features given")
    for one in several:
        if one.ndim not in (3, 4) or not one.numel():
            raise ValueError(f"features must be (C, H, W) or (B, C, H, W), got {tuple(one.shape)}")
        if not torch.isfinite(one).all():
            raise ValueError("features have values that are not finite")
    channels = sorted({one.shape[-3] for one in several})
    if len(channels) > 1:
        raise ValueError(f"features of one basis must have the same channels, got {channels}")
    return several


def side_by_side(
    panels: Sequence[tuple[str, Image.Image]], size: tuple[int, int], columns: int | None = None
) -> Image.Image:
    """Panels of ``size`` (H, W) in rows of at most ``columns`` (default: one row), each under its caption.

    There are as few rows as that allows, and they differ by one panel at most: five in rows of four are three and two.
    Smaller panels are enlarged blockwise, larger ones shrunk; captions that are wider than a panel are wrapped.
    """
    height, width = size
    rows = _even_rows(len(panels), columns or len(panels))
    across = (width + GAP) * max(len(row) for row in rows) - GAP
    letters = max(FONT, across // SHEET_OF_FONT)
    font, line = ImageFont.load_default(size=letters), round(letters * 1.3)
    captions = [_wrapped(caption, font, width - 6) for caption, _ in panels]
    heads = [max(len(captions[i]) for i in row) * line + 5 for row in rows]
    sheet = Image.new("RGB", (across, sum(heads) + height * len(rows) + GAP * (len(rows) - 1)), "white")
    draw = ImageDraw.Draw(sheet)
    top = 0
    for head, row in zip(heads, rows, strict=True):
        for place, i in enumerate(row):
            x, panel = place * (width + GAP), panels[i][1]
            shrinks = panel.width > width or panel.height > height
            how = Image.Resampling.LANCZOS if shrinks else Image.Resampling.NEAREST
            sheet.paste(panel.convert("RGB").resize((width, height), how), (x, top + head))
            for n, text in enumerate(captions[i]):
                draw.text((x + 3, top + 2 + n * line), text, fill="black", font=font)
        top += head + height + GAP
    return sheet


def _even_rows(count: int, columns: int) -> list[range]:
    """``count`` numbers in the fewest rows of at most ``columns``, which differ by one at most, long ones first."""
    rows = -(-count // columns)
    ends = [0, *itertools.accumulate((count + row) // rows for row in reversed(range(rows)))]
    return [range(start, end) for start, end in itertools.pairwise(ends)]


def _wrapped(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, room: float) -> list[str]:
    """Lines no wider than ``room`` pixels; broken between words, and in words where one is too wide."""
    lines = [""]
    for word in caption.split():
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= room:
            lines[-1] = joined
            continue
        if lines[-1]:
            lines.append("")
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > room:
                lines.append("")
            lines[-1] += letter
    return lines


def photo(image: Tensor) -> Image.Image:
    """RGB picture of an image (3, H, W) in [0, 1]."""
    array = (image.detach().float().cpu().clamp(0, 1) * 255).round().permute(1, 2, 0)
    return Image.fromarray(array.numpy().astype(np.uint8))

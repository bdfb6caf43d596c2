"""Depths as pictures: what was predicted beside the truth and the error."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image
from torch import Tensor

from naf_hub.legend import stacked
from naf_hub.picture import photo, side_by_side

# Dark blue, teal, yellow: what is lighter is more, for eyes that see no colours too.
COLOURS = np.array([[20, 16, 90], [42, 110, 142], [64, 178, 120], [250, 232, 90]], dtype=np.float64)
UNKNOWN = 0  # black
MOST = 0.02  # share of the largest errors that take the last colour


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture (3, H, W), and its true and predicted depth (H, W) in metres; unknown where not over 0."""

    image: Tensor
    target: Tensor
    prediction: Tensor


def coloured(values: Tensor, low: float, high: float, known: Tensor) -> Image.Image:
    """Values (H, W) in colours from ``low`` to ``high``; black where they are not known."""
    at = ((values.double().numpy() - low) / max(high - low, 1e-9)).clip(0, 1) * (len(COLOURS) - 1)
    rgb = np.stack([np.interp(at, range(len(COLOURS)), channel) for channel in COLOURS.T], -1)
    rgb[~known.numpy()] = UNKNOWN
    return Image.fromarray(rgb.round().astype(np.uint8))


def depth_sheet(shown: Sequence[Shown]) -> Image.Image | None:
    """A row for each: picture, truth, prediction, error, with their ranges in metres; ``None`` of none."""
    return stacked([_row(one) for one in shown]) if shown else None


def _row(one: Shown) -> Image.Image:
    known = one.target > 0
    everywhere = known | True
    if known.any():
        low, high = float(one.target[known].min()), float(one.target[known].max())
        error = (one.prediction - one.target).abs()
        largest = float(error[known].double().flatten().sort().values[int((1 - MOST) * (known.sum() - 1))])
    else:
        low, high, error, largest = 0.0, 1.0, one.prediction, 1.0
    span = f"{low:.2f} (dark) to {high:.2f} m"
    panels = [
        ("picture", photo(one.image)),
        (f"depth, {span}", coloured(one.target, low, high, known)),
        (f"prediction, {span}", coloured(one.prediction, low, high, everywhere)),
        (f"error, 0 to {largest:.2f} m", coloured(error, 0.0, largest, known)),
    ]
    return side_by_side(panels, (one.target.shape[0], one.target.shape[1]))

"""Predicted classes as pictures: beside the labels, and where they are wrong."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from naf_hub.labels import IGNORE
from naf_hub.legend import class_colours, shaded, stacked, with_legend
from naf_hub.picture import photo, side_by_side

UNKNOWN, RIGHT, WRONG = (0, 0, 0), (190, 190, 190), (215, 25, 30)
LONGEST = 512  # pixels of the long side of a panel


@dataclasses.dataclass(frozen=True)
class Shown:
    """A picture (3, H, W), and the true and predicted class (h, w) of each pixel; ``IGNORE`` where not known."""

    image: Tensor
    label: Tensor
    prediction: Tensor


def segmentation_sheet(shown: Sequence[Shown], names: Sequence[str]) -> Image.Image | None:
    """A row for each: picture, labels, prediction, errors; below, the classes that occur. ``None`` of none."""
    if not shown:
        return None
    colours = class_colours(len(names))
    rows = [_row(one, np.array([*colours, UNKNOWN], np.uint8)) for one in shown]
    seen = torch.cat([torch.cat([one.label.flatten(), one.prediction.flatten()]) for one in shown]).unique()
    entries = [(names[k], colours[k]) for k in map(int, seen.tolist()) if k != IGNORE]
    return with_legend(stacked(rows), [*entries, ("no label", UNKNOWN), ("right", RIGHT), ("wrong", WRONG)])


def _row(one: Shown, colours: np.ndarray) -> Image.Image:
    height, width = one.label.shape
    picture = photo(one.image).resize((width, height), Image.Resampling.BILINEAR)
    known = one.label != IGNORE
    wrong = known & (one.prediction != one.label)
    errors = np.array([UNKNOWN, RIGHT, WRONG], np.uint8)[(known.int() + wrong.int()).numpy()]
    share = 100 * int(wrong.sum()) / max(1, int(known.sum()))
    labels = np.where(known.numpy(), one.label.numpy(), len(colours) - 1)
    panels = [
        ("picture", picture),
        ("labels", shaded(picture, Image.fromarray(colours[labels]))),
        ("prediction", shaded(picture, Image.fromarray(colours[one.prediction.numpy()]))),
        (f"errors: {share:.1f} % of the pixels", Image.fromarray(errors)),
    ]
    scale = min(1.0, LONGEST / max(height, width))
    return side_by_side(panels, (round(height * scale), round(width * scale)))

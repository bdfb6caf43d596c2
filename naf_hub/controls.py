"""Controls that must lose: the same upsampler, its weights untouched, guided by a picture that tells it nothing.

What an upsampler gains over its controls comes from the picture. Where it gains nothing, neither does the user.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .interfaces import StandIn, Upsampler


class _Misguided(StandIn):
    """Guided by what :meth:`guide` makes of the picture."""

    def guide(self, image: Tensor) -> Tensor:
        raise NotImplementedError

    def upsample(self, image: Tensor, features: Any, output_size: tuple[int, int]) -> Tensor:
        return self.like.upsample(self.guide(image), features, output_size)

    def upsample_points(
        self, image: Tensor, features: Any, output_size: tuple[int, int], points: Tensor
    ) -> Tensor:
        return self.like.upsample_points(self.guide(image), features, output_size, points)


class GreyGuidance(_Misguided):
    """Guided by an evenly grey picture, 0.5 in every pixel and channel."""

    def guide(self, image: Tensor) -> Tensor:
        return torch.full_like(image, 0.5)


class OtherGuidance(_Misguided):
    """Guided by another picture: the one it saw before, brought to the same size.

    The first has none before it and gets itself, turned by half a circle.
    """

    def __init__(self, like: Upsampler) -> None:
        super().__init__(like)
        self.seen: Tensor | None = None

    def guide(self, image: Tensor) -> Tensor:
        before = image[:1].flip(-2, -1) if self.seen is None else self.seen.to(image)
        self.seen = image[-1:].detach()
        if before.shape != self.seen.shape:
            before = F.interpolate(before, image.shape[-2:], mode="bilinear")
        return torch.cat([before, image[:-1]])


CONTROLS: Mapping[str, type[StandIn]] = {"grey": GreyGuidance, "other": OtherGuidance}


def add_controls(models: Mapping[str, Upsampler], controls: Iterable[str]) -> dict[str, Upsampler]:
    """``models``, each guided one followed by its controls as ``LABEL (CONTROL)``.

    Args:
        models: by label; those that do not look at the image (:attr:`~naf_hub.Upsampler.guided`) have no control.
        controls: names in :data:`CONTROLS`.

    Raises:
        ValueError: no such control.
    """
    wanted = list(dict.fromkeys(controls))
    for name in wanted:
        if name not in CONTROLS:
            raise ValueError(f"no control {name!r}; there are: {', '.join(CONTROLS)}")
    found: dict[str, Upsampler] = {}
    for label, model in models.items():
        found[label] = model
        if model.guided:
            found |= {f"{label} ({name})": CONTROLS[name](model) for name in wanted}
    return found

"""What a conformance check gets to look at, and how it compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from ..interfaces import Features
from .random_backbone import RandomBackbone


@dataclasses.dataclass(frozen=True)
class Subject:
    """What is checked.

    Attributes:
        make: builds the model, anew and equal each time.
        record: what is promised.
        channels: of the features it insists on, if it does.
    """

    make: Callable[[], Any]
    record: Any
    channels: int | None = None

    def inputs(
        self, batch: int, size: tuple[int, ...], seed: int = 0, **kind: Any
    ) -> tuple[Tensor, Features]:
        """A random image and what the upsampler gathers of it from a :class:`RandomBackbone`.

        Args:
            batch: B.
            size: channels, h, w, image height, image width.
            seed: of the image.
            kind: dtype or device of both.
        """
        c, h, w, height, width = size[:5]
        image = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed)).to(**kind)
        backbone = RandomBackbone(self.channels or c, (h, w), (height, width))
        with torch.no_grad():
            return image, self.make().to(**kind).gather(image, backbone)


def assert_close(found: Tensor, wanted: Tensor, atol: float, promise: str) -> None:
    """Fail, naming the promise, where the largest difference is above ``atol`` or the shapes differ."""
    assert found.shape == wanted.shape, (
        f"{promise}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    )
    gap = (found.double() - wanted.double()).abs().max().item()
    assert gap <= atol, f"{promise}: differs by {gap:.3g}, allowed {atol:.3g}"

"""What a conformance check gets to look at, and how it compares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Subject:
    """What a check works on: a way to make the model, its record, and the channels to feed it."""

    make: Callable[[], Any]
    record: Any
    channels: int | None = None

    def inputs(self, batch: int, size: tuple[int, ...], seed: int = 0, **kind: Any) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        c, h, w, height, width = size[:5]
        image = torch.rand(batch, 3, height, width, generator=generator)
        features = torch.randn(batch, self.channels or c, h, w, generator=generator)
        return image.to(**kind), features.to(**kind)


def assert_close(found: Tensor, wanted: Tensor, atol: float, promise: str) -> None:
    assert found.shape == wanted.shape, (
        f"{promise}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    )
    gap = (found.double() - wanted.double()).abs().max().item()
    assert gap <= atol, f"{promise}: differs by {gap:.3g}, allowed {atol:.3g}"

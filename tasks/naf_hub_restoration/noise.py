"""The noise that is taken away again (NAF, arXiv 2511.18452, section 6 and the code of its release)."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Any, Literal

import torch
from torch import Tensor

Kind = Literal["gaussian", "salt_and_pepper"]


def gaussian(clean: Tensor, sigma: float, normal: Tensor) -> Tensor:
    """``clean`` plus ``sigma`` times standard normal values of its shape; may leave [0, 1]."""
    return clean + sigma * normal


def salt_and_pepper(clean: Tensor, p: float, which: Tensor, value: Tensor) -> Tensor:
    """Each element, channels by themselves, becomes 0 or 1 with probability ``p``.

    Args:
        clean: (B, 3, H, W).
        p: share of elements that change.
        which: uniform in [0, 1), of the shape of ``clean``; below ``p`` the element changes.
        value: the same; above a half the element becomes 1.
    """
    return torch.where(which < p, (value > 0.5).to(clean.dtype), clean)


@dataclasses.dataclass(frozen=True)
class Noise:
    """Noise of a kind, at one level or at levels drawn uniformly from a range.

    Attributes:
        kind: ``"gaussian"`` or ``"salt_and_pepper"``.
        low, high: standard deviation of Gaussian noise for images in [0, 1], or probability of salt and pepper.

    Raises:
        ValueError: an unknown kind, or levels that make no sense.
    """

    kind: Kind
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.kind not in ("gaussian", "salt_and_pepper"):
            raise ValueError(f"noise {self.kind!r}: give gaussian or salt_and_pepper")
        largest = float("inf") if self.kind == "gaussian" else 1.0
        if not 0 <= self.low <= self.high <= largest or self.high == float("inf"):
            bounds = "0 <= LOW <= HIGH" + ("" if self.kind == "gaussian" else " <= 1")
            raise ValueError(f"noise level {self.low:g}:{self.high:g}: must have {bounds}")

    @property
    def words(self) -> str:
        """``gaussian 0.1`` or ``gaussian 0.1:0.5``."""
        return f"{self.kind} {self.low:g}" + (f":{self.high:g}" if self.high > self.low else "")

    def add(self, clean: Tensor, *seeds: Any) -> Tensor:
        """A noisy copy of a batch (B, 3, H, W) on the CPU: a pure function of the seeds. One level a batch."""
        generator, level = self._draw(seeds)
        if self.kind == "gaussian":
            return gaussian(clean, level, torch.randn(clean.shape, generator=generator, dtype=clean.dtype))
        which, value = (torch.rand(clean.shape, generator=generator, dtype=clean.dtype) for _ in range(2))
        return salt_and_pepper(clean, level, which, value)

    def level_of(self, *seeds: Any) -> float:
        """The level that :meth:`add` takes for these seeds."""
        return self._draw(seeds)[1]

    def _draw(self, seeds: tuple[Any, ...]) -> tuple[torch.Generator, float]:
        generator = torch.Generator().manual_seed(_number(seeds))
        return generator, self.low + (self.high - self.low) * float(torch.rand((), generator=generator))


def parse_level(text: str) -> tuple[float, float]:
    """Lowest and highest level of ``LEVEL`` or ``LOW:HIGH``.

    Raises:
        ValueError: no numbers.
    """
    low, _, high = text.partition(":")
    try:
        return float(low), float(high or low)
    except ValueError:
        raise ValueError(f"noise level {text!r}: give a number, or LOW:HIGH") from None


def _number(seeds: tuple[Any, ...]) -> int:
    digest = hashlib.sha256("/".join(map(str, seeds)).encode()).digest()
    return int.from_bytes(digest[:7], "big")

"""Sweeps of one factor at a time, and the largest ratio that fits a memory limit."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable

FACTORS = ("size", "ratio", "channels", "cells", "image", "batch", "threads")


@dataclasses.dataclass(frozen=True)
class Setting:
    """What is timed.

    Attributes:
        channels, cells: of the features, (channels, *cells).
        size: (H, W) of the output in pixels.
        image: side of the square guidance image; ``None`` follows the output.
        batch, threads: examples at once, and CPU threads (``None``: torch's own number).
    """

    channels: int
    cells: tuple[int, int]
    size: tuple[int, int]
    image: int | None
    batch: int = 1
    threads: int | None = None

    @property
    def guide(self) -> tuple[int, int]:
        """(H, W) of the guidance image."""
        return self.size if self.image is None else (self.image, self.image)

    def vary(self, factor: str, value: int) -> Setting:
        """The setting with one factor changed.

        ``size`` is the side of a square output, with the cells as they are; ``ratio`` is output over cells and
        changes the size; ``cells`` changes the grid to a square one and the size with it, at the same ratio.

        Raises:
            ValueError: no such factor.
        """
        if factor == "size":
            return dataclasses.replace(self, size=(value, value))
        if factor == "ratio":
            return dataclasses.replace(self, size=(value * self.cells[0], value * self.cells[1]))
        if factor == "cells":
            ratios = [side / cells for side, cells in zip(self.size, self.cells, strict=True)]
            size = (max(1, round(ratios[0] * value)), max(1, round(ratios[1] * value)))
            return dataclasses.replace(self, cells=(value, value), size=size)
        if factor not in FACTORS:
            raise ValueError(f"no factor {factor!r} to sweep; there are: {', '.join(FACTORS)}")
        return dataclasses.replace(self, **{factor: value})


def parse_sweep(text: str) -> tuple[str, tuple[int, ...]]:
    """``"ratio=2,4,8"`` as a factor and its values.

    Raises:
        ValueError: no such factor, or a value that is no positive whole number.
    """
    factor, equals, values = text.partition("=")
    numbers = values.split(",")
    if not equals or not all(n.strip().isdigit() and int(n) > 0 for n in numbers):
        raise ValueError(f"{text!r}: write FACTOR=N,N,..., with positive whole numbers")
    if factor not in FACTORS:
        raise ValueError(f"{text!r}: no factor {factor!r}; there are: {', '.join(FACTORS)}")
    return factor, tuple(int(n) for n in numbers)


def sweep(setting: Setting, factors: Iterable[tuple[str, tuple[int, ...]]]) -> list[tuple[str, Setting]]:
    """Settings by what sets them apart (``"ratio=2"``); the setting alone, called ``""``, where nothing is swept."""
    found = [
        (f"{factor}={value}", setting.vary(factor, value)) for factor, values in factors for value in values
    ]
    return found or [("", setting)]


def largest_ratio(fits: Callable[[int], bool], at_most: int = 1024) -> int:
    """The largest whole ratio that fits: doubled until one does not, then halved between; 0 where not even 1 does.

    Args:
        fits: whether a ratio runs; called once a ratio. A ratio below one that fits is taken to fit.
        at_most: the search ends here.
    """
    if not fits(1):
        return 0
    low = 1
    while low < at_most and fits(min(2 * low, at_most)):
        low = min(2 * low, at_most)
    high = min(2 * low, at_most)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def fitting(
    call: Callable[[int], int], limit: int, device: str, peak_of: Callable[[Callable[[], int]], int]
) -> Callable[[int], bool]:
    """Whether ``call(ratio)``, which returns the bytes that it surely holds, keeps to ``limit`` bytes.

    On CUDA the process is capped, so that the allocator itself refuses; elsewhere the peak is measured.
    """
    from .memory import shortage

    def fits(ratio: int) -> bool:
        if device.startswith("cuda"):
            import torch

            torch.cuda.empty_cache()
            total = torch.cuda.get_device_properties(device).total_memory
            index = torch.device(device).index  # the allocator takes no device without one
            index = torch.cuda.current_device() if index is None else index
            torch.cuda.set_per_process_memory_fraction(min(1.0, limit / total), index)
        try:
            return peak_of(lambda: call(ratio)) <= limit
        except Exception as error:
            if shortage(error) is None:
                raise
            return False

    return fits

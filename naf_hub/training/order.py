"""In which order a run sees its examples: every one once an epoch, in a new order each time."""

from __future__ import annotations

import random


class EpochOrder:
    """Which example comes at which position: a pure function of the seed.

    Args:
        seed: of the run.
        count: examples.
    """

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count
        self._orders: dict[int, list[int]] = {}

    def place(self, position: int) -> tuple[int, int]:
        """The epoch of a position, and the number of the example there."""
        epoch, place = divmod(position, self.count)
        if epoch not in self._orders:
            order = list(range(self.count))
            random.Random(f"{self.seed}/order/{epoch}").shuffle(order)
            self._orders = {k: v for k, v in self._orders.items() if k >= epoch - 1} | {epoch: order}
        return epoch, self._orders[epoch][place]

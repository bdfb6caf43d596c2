"""What a conformance check gets to look at, and how it compares."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from ..interfaces import Features
from .random_backbone import RandomBackbone

# (channels, h, w, image H, image W, output H, output W): square, non-square, non-integer ratio, image of
# another size than the output, a single row, a single cell, ratio 1, and an output smaller than the features.
SIZES = (
    (8, 10, 10, 40, 40, 40, 40),
    (8, 9, 12, 36, 48, 36, 48),
    (8, 10, 11, 27, 25, 27, 25),
    (8, 10, 9, 33, 47, 40, 36),
    (8, 1, 7, 16, 30, 8, 28),
    (8, 1, 1, 12, 12, 9, 7),
    (8, 11, 12, 44, 48, 11, 12),
    (8, 12, 12, 24, 24, 5, 7),
)


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
            return image, self.make().to(**kind).gather_example(image, backbone)


def assert_close(found: Tensor, wanted: Tensor, atol: float, promise: str) -> None:
    """Fail, naming the promise, where the largest difference is above ``atol`` or the shapes differ."""
    assert found.shape == wanted.shape, (
        f"{promise}: shape {tuple(found.shape)}, expected {tuple(wanted.shape)}"
    )
    gap = (found.double() - wanted.double()).abs().max().item()
    assert gap <= atol, f"{promise}: differs by {gap:.3g}, allowed {atol:.3g}"


def copies_of(model: nn.Module, fresh: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """(how, copy) for each way that a model is copied; ``fresh`` is another of its class, to take its state dict."""
    yield "a deepcopy", copy.deepcopy(model)
    try:
        pickled = pickle.dumps(model)
    except Exception as error:
        raise AssertionError(f"cannot be pickled, as worker processes need: {error}") from error
    yield "a model from a pickle", pickle.loads(pickled)
    nn.Module.load_state_dict(fresh, model.state_dict())
    yield "a state_dict round trip", fresh


def on_threads(count: int, compute: Callable[[], Tensor]) -> Tensor:
    """The result of a computation that may use so many threads on the CPU."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        with torch.no_grad():
            return compute()
    finally:
        torch.set_num_threads(before)


def assert_threads_agree(compute: Callable[[], Tensor]) -> None:
    """Fail where one thread and two give different results, beyond rounding."""
    one, two = on_threads(1, compute), on_threads(2, compute)
    assert_close(two, one, 1e-4 * max(1.0, float(one.abs().max())), "one thread and two")

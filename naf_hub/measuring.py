"""Time and peak memory of upsamplers, each against its floor."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .wants import Want

if TYPE_CHECKING:
    from torch import Tensor

    from .interfaces import Features, Upsampler


class PeakMemory:
    """Peak resident memory of this process above what it had on entry, in bytes (on CUDA: allocated memory).

    The resident size is sampled every two milliseconds, so that a short spike inside one kernel may be missed.
    """

    def __init__(self, device: str) -> None:
        self.cuda = device.startswith("cuda")
        self.bytes = 0

    def __enter__(self) -> PeakMemory:
        gc.collect()
        if self.cuda:
            import torch

            torch.cuda.reset_peak_memory_stats()
            self.before = torch.cuda.memory_allocated()
            return self
        import psutil

        self.process = psutil.Process()
        self.before = self.process.memory_info().rss
        self.done = threading.Event()
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while not self.done.wait(0.002):
            self.bytes = max(self.bytes, self.process.memory_info().rss - self.before)

    def __exit__(self, *_: object) -> None:
        if self.cuda:
            import torch

            self.bytes = torch.cuda.max_memory_allocated() - self.before
            return
        self.done.set()
        self.thread.join()


def timed(call: Callable[[], Any], device: str) -> float:
    """Wall seconds of one call, synchronised."""
    import torch

    def wait() -> None:
        if device.startswith("cuda"):
            torch.cuda.synchronize()

    wait()
    start = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - start


def make_features(model: Upsampler, image: Tensor, shape: tuple[int, int, int]) -> Features:
    """Features (1, C, h, w) to time a model on, on the device of ``image``: random normal ones where it wants the
    plain last map, else what it gathers of a backbone that gives every map at that shape."""
    import torch

    if model.gather_key == ((Want(),),):
        return torch.randn(1, *shape, device=image.device)
    from .testing.random_backbone import RandomBackbone

    channels, *grid = shape
    backbone = RandomBackbone(channels, (grid[0], grid[1]), (image.shape[-2], image.shape[-1]))
    with torch.no_grad():
        return model.gather_example(image, backbone)


def measure(model: Upsampler, shape: tuple[int, int, int], size: tuple[int, int], repeats: int, device: str,
            image_size: tuple[int, int]) -> dict[str, Any]:  # fmt: skip
    """Forward time, peak memory and the ratio to the floor of one upsampler.

    Args:
        shape: features (C, h, w); random, seeded, batch 1; see :func:`make_features`.
        size: (H, W) of the output.
        repeats: timed calls; model and floor take turns, so that a noisy machine disturbs both alike.
        image_size: (H, W) of the image.

    Returns:
        Seconds (median and least), ``peak_bytes`` of the first call, and the floor's label, seconds and ratio
        of medians where the method states a floor.
    """
    import torch

    torch.manual_seed(0)
    image = torch.rand(1, 3, *image_size, device=device)
    features = make_features(model, image, shape)
    with torch.no_grad():
        # The first call, with nothing cached by the allocator, is the one whose memory is honest.
        with PeakMemory(device) as peak:
            model(image, features, size)
        floor = model.bench_floor(image, features, size)
        seconds: list[float] = []
        floor_seconds: list[float] = []
        if floor:
            floor[1]()
        for _ in range(repeats):
            if floor:
                floor_seconds.append(timed(floor[1], device))
            seconds.append(timed(lambda: model(image, features, size), device))
    result: dict[str, Any] = {
        "seconds": statistics.median(seconds),
        "least_seconds": min(seconds),
        "peak_bytes": peak.bytes,
    }
    if floor:
        result |= {
            "floor": floor[0],
            "floor_seconds": statistics.median(floor_seconds),
            "ratio": statistics.median(seconds) / statistics.median(floor_seconds),
        }
    return result

"""Time and peak memory of upsamplers, each against its floor."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .parts.freed_memory import return_freed_memory
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

        # A call that takes again what was freed before would seem to need none.
        return_freed_memory()
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
    """Features (B, C, h, w) to time a model on, for ``image`` (B, 3, H, W) and on its device: random normal ones
    where it wants the plain last map, else what it gathers of a backbone that gives every map at that shape."""
    import torch

    if model.gather_key == ((Want(),),):
        return torch.randn(len(image), *shape, device=image.device)
    from .testing.random_backbone import RandomBackbone

    channels, *grid = shape
    backbone = RandomBackbone(channels, (grid[0], grid[1]), (image.shape[-2], image.shape[-1]))
    with torch.no_grad():
        return model.gather_example(image, backbone)


def measure(
    model: Upsampler,
    shape: tuple[int, int, int],
    size: tuple[int, int],
    repeats: int,
    device: str,
    image_size: tuple[int, int] | None = None,
    *,
    batch: int = 1,
    warmup: int = 0,
    backward: bool = False,
    flops: bool = False,
    onnx: bool = False,
    against_floor: bool = True,
    prepare: Callable[[Callable[[], Any]], Callable[[], Any]] | None = None,
) -> dict[str, Any]:
    """Time, peak memory and the ratio to the floor of one upsampler.

    Args:
        shape: features (C, h, w); random, seeded; see :func:`make_features`.
        size: (H, W) of the output; the image has ``image_size`` (default the same).
        repeats: timed calls; model and floor take turns, so that a noisy machine disturbs both alike.
        batch: how many examples at once.
        warmup: further calls before the timed ones; one, whose memory is measured, comes first anyway.
        backward: also time a step of training: forward, a 1x1 convolution to one channel, backward and SGD.
        flops: also count operations, see :mod:`naf_hub.flops`.
        onnx: also export the model and time the file in onnxruntime, in turn with the model.
        against_floor: time the floor, too; at large sizes that of NAF takes more memory than NAF itself.
        prepare: makes what is timed of the forward call (a captured graph, say); memory is that of the call itself.

    Returns:
        Seconds (median, least, and the distance of the quartiles), ``processor_seconds`` (median, of all threads),
        ``peak_bytes`` of the first call, number of ``parameters``; the floor's label, seconds and ratio of medians
        where the method states a floor; ``backward_seconds`` and ``backward_peak_bytes``; ``gflops_paper`` and
        ``gflops_full``; ``onnx_seconds`` and the ratio of medians ``onnx_ratio``.
    """
    import torch

    torch.manual_seed(0)
    image = torch.rand(batch, 3, *(image_size or size), device=device)
    features = make_features(model, image, shape)

    def forward() -> Any:
        return model(image, features, size)

    result: dict[str, Any] = {"parameters": sum(p.numel() for p in model.parameters())}
    with torch.no_grad():
        # The first call, with nothing cached by the allocator, is the one whose memory is honest.
        with PeakMemory(device) as peak:
            forward()
        result["peak_bytes"] = peak.bytes
        floor = model.bench_floor(image, features, size) if against_floor else None
        call = forward if prepare is None else prepare(forward)
        for _ in range(warmup):
            call()
        seconds: list[float] = []
        processor: list[float] = []
        floor_seconds: list[float] = []
        onnx_seconds: list[float] = []
        exported = _exported(model, image, features, shape[0], size) if onnx else None
        if floor:
            floor[1]()
        for _ in range(repeats):
            if floor:
                floor_seconds.append(timed(floor[1], device))
            before = time.process_time()
            seconds.append(timed(call, device))
            processor.append(time.process_time() - before)
            if exported:
                onnx_seconds.append(timed(exported, device))
    result |= {
        "seconds": statistics.median(seconds),
        "least_seconds": min(seconds),
        "spread_seconds": spread(seconds),
        "processor_seconds": statistics.median(processor),
    }
    if floor:
        result |= {
            "floor": floor[0],
            "floor_seconds": statistics.median(floor_seconds),
            "ratio": statistics.median(seconds) / statistics.median(floor_seconds),
        }
    if exported:
        median = statistics.median(onnx_seconds)
        result |= {"onnx_seconds": median, "onnx_ratio": median / result["seconds"]}
    if backward:
        result |= _measure_training(model, forward, shape[0], repeats, warmup, device)
    if flops:
        from .flops import flops_of

        found = flops_of(model, image, features, size)
        result |= {"gflops_paper": found.paper / 1e9, "gflops_full": found.full / 1e9}
    return result


def _exported(
    model: Upsampler, image: Tensor, features: Features, channels: int, size: tuple[int, int]
) -> Callable[[], Any]:
    """The model's exported file as a call, once called."""
    from .onnx_export import exported_call

    call = exported_call(model, image, features, channels, size)
    call()
    return call


def spread(seconds: list[float]) -> float:
    """Distance of the quartiles; 0 for one value."""
    if len(seconds) < 2:
        return 0.0
    first, _, third = statistics.quantiles(seconds, n=4, method="inclusive")
    return third - first


def _measure_training(
    model: Upsampler, forward: Callable[[], Any], channels: int, repeats: int, warmup: int, device: str
) -> dict[str, Any]:
    """A step of training as the published benchmark does it: no gradients are zeroed."""
    import torch

    head = torch.nn.Conv2d(channels, 1, 1).to(device)
    parameters = [*head.parameters(), *model.requires_grad_(True).parameters()]
    optimizer = torch.optim.SGD(parameters, lr=0.01)

    def step() -> None:
        head(forward()).sum().backward()
        optimizer.step()

    model.train()
    try:
        with torch.enable_grad():
            with PeakMemory(device) as peak:
                step()
            for _ in range(warmup):
                step()
            seconds = [timed(step, device) for _ in range(repeats)]
    finally:
        model.eval().requires_grad_(False)
    return {"backward_seconds": statistics.median(seconds), "backward_peak_bytes": peak.bytes}

"""``naf-hub bench``: time and peak memory of upsamplers, each against its floor, in one process."""

from __future__ import annotations

import gc
import statistics
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from .cli import parse_options, print_json, print_table

if TYPE_CHECKING:
    from .interfaces import Upsampler

MIB = 1 << 20


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


def measure(model: Upsampler, shape: tuple[int, int, int], size: int, repeats: int, device: str,
            image_side: int | None = None) -> dict[str, Any]:  # fmt: skip
    """Forward time, peak memory and the ratio to the floor of one upsampler.

    Args:
        shape: features (C, h, w); random, seeded, batch 1.
        size: output side in pixels; the image has ``image_side`` (default the same).
        repeats: timed calls; model and floor take turns, so that a noisy machine disturbs both alike.

    Returns:
        Seconds (median and least), ``peak_bytes`` of the first call, and the floor's label, seconds and ratio
        of medians where the method states a floor.
    """
    import torch

    torch.manual_seed(0)
    side = image_side or size
    image = torch.rand(1, 3, side, side, device=device)
    features = torch.randn(1, *shape, device=device)
    with torch.inference_mode():
        # The first call, with nothing cached by the allocator, is the one whose memory is honest.
        with PeakMemory(device) as peak:
            model(image, features, size)
        floor = model.bench_floor(image, features, (size, size))
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


def _shape(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int, int]:
    parts = value.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not C,h,w")
    return (int(parts[0]), int(parts[1]), int(parts[2]))


@click.command("bench")
@click.argument("upsamplers", nargs=-1, required=True, metavar="UPSAMPLER...")
@click.option(
    "--features", default="384,28,28", show_default=True, callback=_shape, help="Feature shape C,h,w."
)
@click.option("--size", default=448, show_default=True, type=click.IntRange(1), help="Output side in pixels.")
@click.option(
    "--image", default=None, type=click.IntRange(1), help="Image side in pixels; default the output's."
)
@click.option("--repeats", default=5, show_default=True, type=click.IntRange(1), help="Timed calls each.")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(1), help="CPU threads.")
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, mps.")
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]),
              help="Autocast to this type where it is not float32.")  # fmt: skip
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", callback=parse_options,
              help="Constructor option, given to every upsampler. Repeatable.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def bench_command(
    upsamplers: tuple[str, ...], features: tuple[int, int, int], size: int, image: int | None, repeats: int,
    threads: int, device: str, dtype: str, options: dict[str, Any], as_json: bool,
) -> None:  # fmt: skip
    """Time upsamplers on random features: forward seconds, peak memory, ratio to the method's own floor."""
    import contextlib

    import torch

    from .loading import load

    torch.set_num_threads(threads)
    rows: list[dict[str, Any]] = []
    for name in upsamplers:
        # Random weights run exactly as fast as trained ones.
        model = load(name, weights=None, device=device, **options)
        cast = (
            contextlib.nullcontext() if dtype == "float32" else torch.autocast(device, getattr(torch, dtype))
        )
        with cast:
            rows.append({"name": name} | measure(model, features, size, repeats, device, image))
        del model
    if as_json:
        print_json(
            {"features": list(features), "size": size, "image": image or size, "threads": threads, "device": device,
             "dtype": dtype, "repeats": repeats, "torch": torch.__version__, "results": rows}
        )  # fmt: skip
        return
    table = [("upsampler", "median s", "least s", "peak MiB", "x floor", "floor")]
    for row in rows:
        floor = f"{row['floor']}: {row['floor_seconds']:.3f} s" if "floor" in row else ""
        ratio = f"{row['ratio']:.2f}" if "ratio" in row else "-"
        table.append(
            (row["name"], f"{row['seconds']:.3f}", f"{row['least_seconds']:.3f}",
             f"{row['peak_bytes'] / MIB:.0f}", ratio, floor)
        )  # fmt: skip
    print_table(table)

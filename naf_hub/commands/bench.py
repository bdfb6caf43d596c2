"""``naf-hub bench``: time, memory and operations of upsamplers, each against its floor, in one process."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from ..contenders import Contender
from ..efficiency import FACTORS, Setting, fitting, largest_ratio, parse_sweep, sweep
from ..efficiency_plot import ENDINGS, plot_sweeps
from ..errors import as_typed
from ..escapes import one_line
from ..image_sizes import ImageSize, square
from ..measuring import PeakMemory, make_features, measure
from ..memory import shortage
from ..name_completion import complete_upsamplers
from ..options import (
    backbone_option,
    constructor_option,
    device_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    report_options,
    show_report,
    size_option,
    threads_option,
    upsampler_weights_option,
    use_threads,
)
from ..parts.budget import parse_bytes
from ..reports import Metric, Report, Row, describe_environment

MIB = 1 << 20
METRICS = (
    Metric("seconds", "s", False, 4, "median"),
    Metric("least_seconds", "s", False, 4, "least"),
    Metric("spread_seconds", "s", False, 4, "quartiles"),
    Metric("processor_seconds", "s", False, 4, "processor"),
    Metric("peak_mib", "MiB", False, 0, "peak"),
    Metric("ratio", "", False, 2, "x floor"),
    Metric("parameters", "", False, 0, "parameters"),
)
BACKWARD = (
    Metric("backward_seconds", "s", False, 4, "training step"),
    Metric("backward_peak_mib", "MiB", False, 0, "peak of it"),
)
FLOPS = (
    Metric("gflops_paper", "", False, 1, "GFLOPs, paper"),
    Metric("gflops_full", "", False, 1, "GFLOPs, all"),
)
ONNX = (
    Metric("onnx_seconds", "s", False, 3, "onnxruntime"),
    Metric("onnx_ratio", "", False, 2, "x torch"),
)
LARGEST = (Metric("largest_ratio", "", True, 0, "largest ratio"),)
VERSION = 2


def _shape(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int, int]:
    parts = value.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not C,h,w")
    return (int(parts[0]), int(parts[1]), int(parts[2]))


def _checked(function: Callable[[str], Any]) -> Callable[..., Any]:
    def callback(_: click.Context, __: click.Parameter, value: Any) -> Any:
        try:
            if isinstance(value, tuple):
                return tuple(map(function, value))
            return None if value is None else function(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


@click.command("bench", context_settings={"show_default": True})
@click.argument(
    "upsamplers", nargs=-1, required=True, metavar="NAME[=WEIGHTS]...", shell_complete=complete_upsamplers
)
@click.option("--features", default="384,28,28", callback=_shape, help="Time features of this shape, C,h,w.")
@size_option("448", "Upsample to this size, a square for N", native=None)
@click.option("--image", default=None, type=click.IntRange(1), metavar="N", show_default="the output's size",
              help="Guide by a square image of so many pixels.")  # fmt: skip
@click.option("--batch", default=1, type=click.IntRange(1), help="Upsample so many examples at once.")
@click.option("--sweep", "sweeps", multiple=True, metavar="FACTOR=N,N,...", callback=_checked(parse_sweep),
              help=f"Time each of these, all else as set; FACTOR: {', '.join(FACTORS)}; repeatable.")  # fmt: skip
@click.option("--repeats", default=5, type=click.IntRange(1), help="Time so many calls of each.")
@click.option(
    "--warmup", default=0, type=click.IntRange(0), help="Call so often before that, after a first call."
)
@click.option("--backward", is_flag=True, help="Time a step of training, too.")
@click.option("--flops", is_flag=True, help="Count operations, too.")
@click.option(
    "--no-floor", is_flag=True, help="Leave the floor out: NAF's holds whole maps, whatever the size."
)
@click.option("--onnx", is_flag=True, help="Export each and time the file in onnxruntime, too.")
@click.option("--largest-ratio", "limit", metavar="BYTES", callback=_checked(parse_bytes), default=None,
              help="Find the largest ratio of output to cells that keeps to this memory, e.g. 2GiB.")  # fmt: skip
@device_option
@threads_option
@click.option("--dtype", default="float32", type=click.Choice(["float32", "tf32", "bfloat16", "float16"]),
              help="Autocast to bfloat16 or float16, or let CUDA multiply float32 as TF32.")  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="Time the model through torch.compile.")
@click.option("--cuda-graph", is_flag=True, help="Time replays of a captured CUDA graph.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Draw what was swept to this picture.")
@upsampler_weights_option("none")
@backbone_option(
    text="Take weights that are made per backbone from the set of this one, which itself is not loaded. "
)
@constructor_option
@report_options
def bench_command(
    upsamplers: tuple[str, ...], features: tuple[int, int, int], size: ImageSize, image: int | None, batch: int,
    sweeps: tuple[tuple[str, tuple[int, ...]], ...], repeats: int, warmup: int, backward: bool, flops: bool,
    no_floor: bool, onnx: bool, limit: int | None, threads: int | None, device: str, dtype: str, compiled: bool,
    cuda_graph: bool, plot: str | None, weights: str | None, backbone: str | None, options: dict[str, Any],
    format_: str, as_json: bool, save: str | None,
) -> None:  # fmt: skip
    """Time upsamplers on random features: forward seconds, peak memory, ratio to the method's own floor.

    Weights are random unless some are named: they run exactly as fast as trained ones. One that runs out of memory or
    fails has a remark instead of figures, and the rest goes on.
    """
    contenders = parse_upsamplers(upsamplers, weights, options)
    made_for = None if backbone is None else parse_backbone_option(backbone).name
    if plot and not sweeps:
        raise click.UsageError("--plot draws what --sweep times; give both")
    if plot and Path(plot).suffix.lower() not in ENDINGS:
        raise click.UsageError(f"--plot {plot}: the name must end in {', '.join(ENDINGS)}")
    if plot and os.path.lexists(plot):
        raise click.UsageError(f"--plot {plot} exists; choose another name")
    where = pick_device(device)
    if cuda_graph and not where.startswith("cuda"):
        raise click.UsageError("--cuda-graph needs a CUDA device")
    if onnx and (where != "cpu" or dtype != "float32" or compiled):
        raise click.UsageError(
            "--onnx times float32 on the CPU: give --device cpu, and neither --dtype nor --compile"
        )
    use_threads(threads)
    from torch import get_num_threads

    common = get_num_threads()  # before any sweep changes them
    output = square(size)
    assert output is not None  # native is refused
    start = Setting(features[0], (features[1], features[2]), output, image, batch, threads)
    chosen = {"repeats": repeats, "warmup": warmup, "backward": backward, "flops": flops, "onnx": onnx,
              "against_floor": not no_floor}  # fmt: skip
    rows: list[Row] = []
    for name, contender in zip(upsamplers, contenders, strict=True):
        for what, setting in sweep(start, sweeps):
            label = f"{name}, {what}" if what else name
            found = _try(contender, setting, made_for, where, dtype, compiled, cuda_graph, chosen, limit)
            row = _row(label, contender, found, made_for)
            extras = {**row.extras, "contender": name, **_swept(what)}
            rows.append(Row(label, row.values, row.upsampler, row.weights, row.backbone, row.note, extras))
    metrics = (
        *METRICS,
        *(BACKWARD if backward else ()),
        *(FLOPS if flops else ()),
        *(ONNX if onnx else ()),
        *(LARGEST if limit else ()),
    )
    protocol = {"features": features, "size": _short(output), "image": image or "as the output", "batch": batch,
                "threads": common, "device": where, "dtype": dtype, "compile": compiled,
                "cuda_graph": cuda_graph, "sweep": dict(sweeps), "memory_limit": limit, "options": options,
                **chosen}  # fmt: skip
    report = Report(
        "bench", VERSION, protocol, metrics, tuple(rows), seeds=(0,), environment=describe_environment(where)
    )
    show_report(report, format_, as_json, save)
    if plot:
        click.echo(f"wrote {plot_sweeps(report, plot)}", err=True)


def _short(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size


def _swept(what: str) -> dict[str, Any]:
    factor, _, value = what.partition("=")
    return {"swept": [factor, int(value)]} if what else {}


def _try(
    contender: Contender, setting: Setting, made_for: str | None, device: str, dtype: str, compiled: bool,
    cuda_graph: bool, chosen: dict[str, Any], limit: int | None,
) -> dict[str, Any]:  # fmt: skip
    """Figures of one setting, or under ``failed`` why there are none."""
    import torch

    use_threads(setting.threads)
    set_tf32(dtype == "tf32")
    kind = torch.device(device).type
    half = dtype in ("bfloat16", "float16")
    cast = torch.autocast(kind, getattr(torch, dtype)) if half else contextlib.nullcontext()
    try:
        model = contender.load(made_for or setting.channels, device)
        if compiled:
            model.compile()
        with cast:
            found = measure(
                model, (setting.channels, *setting.cells), setting.size, device=device, image_size=setting.guide,
                batch=setting.batch, prepare=captured if cuda_graph else None, **chosen,
            )  # fmt: skip
            if limit:
                found["largest_ratio"] = _largest(model, setting, device, limit)
        origin = getattr(model, "origin", None)
        return {**found, "weights": contender.weights if origin is None else origin.weights}
    except Exception as error:  # one that fails must not take the others along
        return {"failed": shortage(error) or one_line(as_typed(error)) or type(error).__name__}


def set_tf32(on: bool) -> None:
    """Whether products of matrices and convolutions on GPUs may round to TF32, until the running command ends."""
    import torch

    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32

    def put_back() -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

    click.get_current_context().call_on_close(put_back)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on


def _largest(model: Any, setting: Setting, device: str, limit: int) -> int:
    """The largest ratio whose forward pass, guided by an image of the output's size, keeps to ``limit`` bytes."""
    import torch

    @torch.no_grad()
    def call(ratio: int) -> int:
        size = setting.vary("ratio", ratio).size
        image = torch.rand(setting.batch, 3, *size, device=device)
        output = model(image, make_features(model, image, (setting.channels, *setting.cells)), size)
        return image.nbytes + output.nbytes

    def peak_of(run: Callable[[], int]) -> int:
        with PeakMemory(device) as peak:
            held = run()
        # A process that has room left grows by nothing.
        return max(peak.bytes, held)

    return largest_ratio(fitting(call, limit, device, peak_of))


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    """``call`` as replays of a CUDA graph."""
    import torch

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def _row(label: str, contender: Contender, found: dict[str, Any], backbone: str | None) -> Row:
    if "failed" in found:
        return Row(label, {}, contender.name, contender.weights, backbone, found["failed"])
    kept = [metric.name for metric in (*METRICS, *BACKWARD, *FLOPS, *ONNX, *LARGEST)]
    values: dict[str, float | None] = {key: found[key] for key in kept if key in found}
    values["ratio"] = found.get("ratio")
    values["peak_mib"] = found["peak_bytes"] / MIB
    if "backward_peak_bytes" in found:
        values["backward_peak_mib"] = found["backward_peak_bytes"] / MIB
    notes = [f"floor: {found['floor']}: {found['floor_seconds']:.3f} s"] if "floor" in found else []
    if found.get("largest_ratio") == 0:
        notes.append("not even ratio 1 keeps to the memory of --largest-ratio")
    note = "; ".join(notes)
    extras = {key: found[key] for key in ("floor", "floor_seconds", "peak_bytes") if key in found}
    return Row(label, values, contender.name, found["weights"], backbone, note, extras)

"""``naf-hub bench``: time and peak memory of upsamplers, each against its floor, in one process."""

from __future__ import annotations

from typing import Any

import click

from ..image_sizes import ImageSize, square
from ..measuring import measure
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
from ..reports import Metric, Report, Row, describe_environment

MIB = 1 << 20
METRICS = (
    Metric("seconds", "s", False, 3, "median"),
    Metric("least_seconds", "s", False, 3, "least"),
    Metric("peak_mib", "MiB", False, 0, "peak"),
    Metric("ratio", "", False, 2, "x floor"),
)
VERSION = 1


def _shape(_: click.Context, __: click.Parameter, value: str) -> tuple[int, int, int]:
    parts = value.replace("x", ",").split(",")
    if len(parts) != 3 or not all(part.strip().isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"{value!r} is not C,h,w")
    return (int(parts[0]), int(parts[1]), int(parts[2]))


@click.command("bench")
@click.argument(
    "upsamplers", nargs=-1, required=True, metavar="NAME[=WEIGHTS]...", shell_complete=complete_upsamplers
)
@click.option(
    "--features",
    default="384,28,28",
    show_default=True,
    callback=_shape,
    help="Time features of this shape, C,h,w.",
)
@size_option("448", "Upsample to this size, a square for N", native=None)
@click.option(
    "--image",
    default=None,
    type=click.IntRange(1),
    metavar="N",
    show_default="the output's size",
    help="Guide by a square image of so many pixels.",
)
@click.option(
    "--repeats", default=5, show_default=True, type=click.IntRange(1), help="Time so many calls of each."
)
@device_option
@threads_option
@click.option("--dtype", default="float32", show_default=True, type=click.Choice(["float32", "bfloat16", "float16"]),
              help="Autocast to this type where it is not float32.")  # fmt: skip
@upsampler_weights_option("none")
@backbone_option(
    text="Take weights that are made per backbone from the set of this one, which itself is not loaded. "
)
@constructor_option
@report_options
def bench_command(
    upsamplers: tuple[str, ...], features: tuple[int, int, int], size: ImageSize, image: int | None,
    repeats: int, threads: int | None, device: str, dtype: str, weights: str | None, backbone: str | None,
    options: dict[str, Any], format_: str, as_json: bool, save: str | None,
) -> None:  # fmt: skip
    """Time upsamplers on random features: forward seconds, peak memory, ratio to the method's own floor.

    Weights are random unless some are named: they run exactly as fast as trained ones.
    """
    import contextlib

    contenders = parse_upsamplers(upsamplers, weights, options)
    made_for = None if backbone is None else parse_backbone_option(backbone).name

    import torch

    where = pick_device(device)
    use_threads(threads)
    output = square(size)
    assert output is not None  # native is refused
    guide = (image, image) if image else output
    rows: list[Row] = []
    for name, contender in zip(upsamplers, contenders, strict=True):
        model = contender.load(made_for or features[0], where)
        cast = (
            contextlib.nullcontext()
            if dtype == "float32"
            else torch.autocast(torch.device(where).type, getattr(torch, dtype))
        )
        with cast:
            rows.append(_row(name, model, measure(model, features, output, repeats, where, guide), made_for))
        del model
    protocol = {"features": features, "size": _short(output), "image": _short(guide),
                "threads": torch.get_num_threads(), "device": where, "dtype": dtype,
                "repeats": repeats, "options": options}  # fmt: skip
    report = Report(
        "bench", VERSION, protocol, METRICS, tuple(rows), seeds=(0,), environment=describe_environment(where)
    )
    show_report(report, format_, as_json, save)


def _short(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size


def _row(name: str, model: Any, found: dict[str, Any], backbone: str | None) -> Row:
    values = {key: found.get(key) for key in ("seconds", "least_seconds", "ratio")}
    values["peak_mib"] = found["peak_bytes"] / MIB
    note = f"floor: {found['floor']}: {found['floor_seconds']:.3f} s" if "floor" in found else ""
    extras = {key: found[key] for key in ("floor", "floor_seconds", "peak_bytes") if key in found}
    return Row.of(name, model, values, backbone=backbone, note=note, extras=extras)

"""``naf-hub bench``: time and peak memory of upsamplers, each against its floor, in one process."""

from __future__ import annotations

from typing import Any

import click

from ..measuring import measure
from .options import parse_options, print_json, print_table

MIB = 1 << 20


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

    from ..loading import load

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

"""``naf-hub export``: an upsampler as an ONNX file."""

from __future__ import annotations

from typing import Any

import click

from ..options import (
    constructor_option,
    json_option,
    parse_backbone_option,
    parse_upsamplers,
    print_json,
    upsampler_weights_option,
)


def _size(_: click.Context, __: click.Parameter, value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    sides = value.split("x")
    if len(sides) not in (1, 2) or not all(side.isdecimal() and int(side) > 0 for side in sides):
        raise click.BadParameter(f"{value!r} is not N or HxW")
    return int(sides[0]), int(sides[-1])


@click.command("export")
@click.argument("upsampler", metavar="NAME[=WEIGHTS]")
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), metavar="FILE.onnx",
              help="Write this file.")  # fmt: skip
@click.option("--backbone", metavar="NAME",
              help="Take the number of channels, and weights that are made per backbone, from this registered "
                   "backbone.")  # fmt: skip
@click.option("--channels", type=click.IntRange(1), help="Upsample features of so many channels.")
@click.option("--size", callback=_size, metavar="N|HxW",
              help="Fix the output to this size in pixels.  [default: the image's]")  # fmt: skip
@upsampler_weights_option()
@constructor_option
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
def export_command(
    upsampler: str, out: str, backbone: str | None, channels: int | None, size: tuple[int, int] | None,
    weights: str | None, options: dict[str, Any], force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Export an upsampler to ONNX (operator set 18).

    Batch, image and feature sizes stay free. The file is compared with the model in onnxruntime at two sizes
    before it takes its place.
    """
    from pathlib import Path

    (chosen,) = parse_upsamplers([upsampler], weights, options)
    behind = None if backbone is None else parse_backbone_option(backbone)
    channels = channels or getattr(behind and behind.record, "embed_dim", None)
    if channels is None:
        raise click.UsageError("say how many channels the features have: --channels N, or --backbone NAME")
    if Path(out).exists() and not force:
        raise FileExistsError(f"{out} exists; use --force to replace it")

    from ..onnx_export import export_onnx

    result = export_onnx(chosen.load(behind and behind.name), out, channels, size)
    if as_json:
        print_json(result)
        return
    worst = max(found["difference"] for found in result["compared"])
    click.echo(
        f"wrote {result['file']} ({result['bytes'] / 1e6:.1f} MB): {', '.join(result['inputs'])} -> "
        f"{result['output']}; "
        f"onnxruntime is within {worst:.1g} of the largest value at {len(result['compared'])} sizes"
    )

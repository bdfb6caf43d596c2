"""``naf-hub export``: an upsampler as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..image_sizes import ImageSize, square
from ..name_completion import complete_backbones, complete_upsamplers
from ..options import (
    constructor_option,
    json_option,
    parse_backbone_option,
    parse_upsamplers,
    print_json,
    size_option,
    threads_option,
    upsampler_weights_option,
    use_threads,
)


@click.command("export")
@click.argument("upsampler", metavar="NAME[=WEIGHTS]", shell_complete=complete_upsamplers)
@click.option("-o", "--out", required=True, type=click.Path(dir_okay=False), metavar="FILE.onnx",
              help="Write this file.")  # fmt: skip
@click.option("--backbone", metavar="NAME", shell_complete=complete_backbones,
              help="Take the number of channels, and weights that are made per backbone, from this registered "
                   "backbone.")  # fmt: skip
@click.option("--channels", type=click.IntRange(1), help="Upsample features of so many channels.")
@size_option("native", "Fix the output to this size, a square for N", native="the image's")
@click.option(
    "--int8", is_flag=True, help="Store weights as int8: a smaller file, about as fast, a little less exact."
)
@upsampler_weights_option()
@constructor_option
@threads_option
@click.option("--force", is_flag=True, help="Replace an existing file.")
@json_option
def export_command(
    upsampler: str, out: str, backbone: str | None, channels: int | None, size: ImageSize, int8: bool,
    weights: str | None, options: dict[str, Any], threads: int | None, force: bool, as_json: bool,
) -> None:  # fmt: skip
    """Export an upsampler to ONNX (operator set 18).

    Batch, image and feature sizes stay free. The file is compared with the model in onnxruntime at two sizes
    before it takes its place.
    """
    if Path(out).suffix.lower() != ".onnx":
        raise click.BadParameter(f"{out!r} must end in .onnx, the format that is written", param_hint="--out")
    use_threads(threads)
    (chosen,) = parse_upsamplers([upsampler], weights, options)
    behind = None if backbone is None else parse_backbone_option(backbone)
    channels = channels or getattr(behind and behind.record, "embed_dim", None)
    if channels is None:
        raise click.UsageError("say how many channels the features have: --channels N, or --backbone NAME")
    if Path(out).exists() and not force:
        raise FileExistsError(f"{out} exists; use --force to replace it")

    from ..onnx_export import export_onnx

    made_for = channels if behind is None else behind.name
    result = export_onnx(chosen.load(made_for), out, channels, square(size), int8)
    if as_json:
        print_json(result)
        return
    worst = max(found["difference"] for found in result["compared"])
    click.echo(
        f"wrote {result['file']} ({result['bytes'] / 1e6:.1f} MB): {', '.join(result['inputs'])} -> "
        f"{result['output']}; "
        f"onnxruntime is within {worst:.1g} of the largest value at {len(result['compared'])} sizes"
    )

"""``naf-hub eval boundaries``."""

from __future__ import annotations

from typing import Any

import click

from naf_hub.options import (
    backbone_constructor_option,
    backbone_option,
    backbone_weights_option,
    constructor_option,
    control_option,
    device_option,
    limit_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    read_settings,
    report_options,
    results_option,
    show_report,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
    use_threads,
)
from naf_hub.terminal import tell_left_out, tell_skipped


@click.command(context_settings={"show_default": True})
@upsampler_option(multiple=True)
@upsampler_weights_option()
@backbone_option(required=True)
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@click.option(
    "--data", required=True, type=click.Path(), help="Read this folder with images/ and boundaries/."
)
@click.option(
    "--tolerance",
    default=0.0075,
    type=click.FloatRange(min=0, min_open=True),
    help="Let edges lie this fraction of the diagonal away from a boundary.",
)
@click.option(
    "--sigma",
    default=1.0,
    type=click.FloatRange(min=0, min_open=True),
    help="Blur gradients by so many pixels before thinning.",
)
@limit_option()
@control_option
@results_option
@device_option
@threads_option
@report_options
def boundaries(
    upsamplers: tuple[str, ...], weights: str | None, backbone: str, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], data: str, device: str,
    threads: int | None, controls: tuple[str, ...], out: str | None, format_: str, as_json: bool, save: str | None,
    **protocol: Any,
) -> None:  # fmt: skip
    """How well edges of upsampled features lie on boundaries that people drew; no classes, no training.

    DATA holds images/ and boundaries/, grey pictures of the same names: the share of the annotators who drew a boundary
    through the pixel. The row "image" has the edges of the picture itself.
    """
    use_threads(threads)
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from .boundaries import Boundaries, BoundaryProtocol

    read_settings(BoundaryProtocol.read, protocol)
    report = Boundaries().evaluate(
        contenders, data, protocol, backbone=behind, device=pick_device(device), controls=controls, out=out
    )
    tell_left_out(report.data["images_without_drawing"], "a drawing")
    tell_skipped(report.data["skipped"].values())
    show_report(report, format_, as_json, save)

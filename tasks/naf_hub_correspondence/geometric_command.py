"""``naf-hub eval geometric``."""

from __future__ import annotations

from functools import partial
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
    square_option,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
    use_threads,
)
from naf_hub.terminal import tell_skipped


@click.command(context_settings={"show_default": True})
@upsampler_option(multiple=True)
@upsampler_weights_option()
@backbone_option(required=True)
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@click.option("--data", required=True, type=click.Path(), help="Read NAVI in this folder.")
@square_option(448, "Side in pixels of the squares that are cut out around the objects.")
@square_option(112, "Side of the square maps, in cells.", name="--output-size")
@click.option("--keep", default=1000, type=click.IntRange(min=1), help="Score so many of the surest cells.")
@click.option(
    "--instance-stride",
    default=4,
    type=click.IntRange(min=1),
    help="Take every so many photos as a source, as published; 1 takes all.",
)
@click.option("--seed", default=8, type=click.IntRange(min=0), help="Of the partners' draw, as published.")
@limit_option("pairs")
@control_option
@device_option
@threads_option
@results_option
@report_options
def geometric(
    upsamplers: tuple[str, ...], weights: str | None, backbone: str, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], data: str, device: str,
    threads: int | None, controls: tuple[str, ...], out: str | None, format_: str, as_json: bool,
    save: str | None, **protocol: Any,
) -> None:  # fmt: skip
    """Points of NAVI's objects found again from another side, by nearest features; errors in space.

    DATA is the unpacked archive of NAVI, which github.com/google/navi describes. "recall@2cm" are the surest matches
    that miss the true point by less than 2 cm, by angles between the cameras, too. Without the data, `naf-hub eval
    homography` takes any folder of photos.
    """
    use_threads(threads)
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from naf_hub.training.settings import build

    from .geometric import GeometricCorrespondence, GeometricProtocol

    read_settings(partial(build, GeometricProtocol), protocol)
    report = GeometricCorrespondence().evaluate(
        contenders, data, protocol, backbone=behind, device=pick_device(device), controls=controls, out=out
    )
    tell_skipped(dict.fromkeys(report.data["skipped"].values()))
    show_report(report, format_, as_json, save)

"""``naf-hub eval homography``."""

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
@click.option(
    "--data", required=True, multiple=True, type=click.Path(), help="Take photos of this folder; repeatable."
)
@square_option(448, "Side in pixels of the squares that are cut out of the photos.")
@square_option(112, "Side of the square maps, in cells.", name="--output-size")
@click.option(
    "--points",
    default=0,
    type=click.IntRange(min=0),
    help="Look for so many cells of each photo, drawn at random; 0 looks for all.",
)
@click.option("--keep", default=1000, type=click.IntRange(min=1), help="Score so many of the surest cells.")
@click.option(
    "--strength",
    default=1.0,
    type=click.FloatRange(0, 1),
    help="Of the homographies: 1 turns by up to 30 degrees.",
)
@click.option("--seed", default=0, type=click.IntRange(min=0), help="Of homographies and points.")
@limit_option("photos")
@control_option
@device_option
@threads_option
@results_option
@report_options
def homography(
    upsamplers: tuple[str, ...], weights: str | None, backbone: str, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], data: tuple[str, ...], device: str,
    threads: int | None, controls: tuple[str, ...], out: str | None, format_: str, as_json: bool,
    save: str | None, **protocol: Any,
) -> None:  # fmt: skip
    """Points of photos found again after a known homography, by nearest features; no labels.

    Each photo is matched to itself, turned, scaled, tilted and shifted at random. PCK counts points that are missed by
    no more than a share of the photo's side; "surest" are the cells whose nearest feature is much nearer than the next.
    """
    use_threads(threads)
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from naf_hub.training.settings import build

    from .homography import HomographyCorrespondence, HomographyProtocol

    read_settings(partial(build, HomographyProtocol), protocol)
    report = HomographyCorrespondence().evaluate(
        contenders, data, protocol, backbone=behind, device=pick_device(device), controls=controls, out=out
    )
    tell_skipped(report.data["skipped"].values())
    show_report(report, format_, as_json, save)

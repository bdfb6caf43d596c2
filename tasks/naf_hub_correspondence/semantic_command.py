"""``naf-hub eval correspondence``."""

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
@click.option("--data", required=True, type=click.Path(), help="Read SPair-71k in this folder.")
@square_option(448, "Side in pixels of the squares that photos are padded to, as published, and of the maps.")
@limit_option("pairs of each category")
@control_option
@device_option
@threads_option
@results_option
@report_options
def correspondence(
    upsamplers: tuple[str, ...], weights: str | None, backbone: str, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], data: str, device: str,
    threads: int | None, controls: tuple[str, ...], out: str | None, format_: str, as_json: bool,
    save: str | None, **protocol: Any,
) -> None:  # fmt: skip
    """PCK on SPair-71k: keypoints found on another object of the class, by nearest features.

    DATA is the unpacked archive SPair-71k, which cvlab.postech.ac.kr publishes. The row "backbone's grid" has no
    upsampling. Without the data, `naf-hub eval homography` takes any folder of photos.
    """
    use_threads(threads)
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from naf_hub.training.settings import build

    from .semantic import SemanticCorrespondence, SPairProtocol

    read_settings(partial(build, SPairProtocol), protocol)
    report = SemanticCorrespondence().evaluate(
        contenders, data, protocol, backbone=behind, device=pick_device(device), controls=controls, out=out
    )
    tell_skipped(report.data["skipped"].values())
    show_report(report, format_, as_json, save)

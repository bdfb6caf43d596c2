"""``naf-hub eval depth``."""

from __future__ import annotations

from typing import Any

import click

from naf_hub.image_sizes import ImageSize
from naf_hub.options import (
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    read_settings,
    show_report,
    size_option,
    use_threads,
)

from .probe_options import hint_at_time, model_options, probe_options, tell_skipped, teller


@click.command(context_settings={"show_default": True})
@model_options
@click.option("--data", required=True, type=click.Path(),
              help="Read this folder with train/ and test/, or NYUv2's.")  # fmt: skip
@click.option("--train-data", type=click.Path(), help="Train on this folder with rgb/ and depth/ instead.")
@click.option(
    "--unit",
    default=0.001,
    metavar="METRES",
    type=click.FloatRange(min=0, min_open=True),
    help="Take one step of the depth pictures for so many metres.",
)
@click.option(
    "--max-depth",
    default=10.0,
    metavar="METRES",
    type=click.FloatRange(min=0, min_open=True),
    help="Leave out depths beyond.",
)
@size_option("448", "Bring pictures to this size, and for N cut the centre N x N", native=None)
@click.option("--read-out", type=click.Choice(["linear", "softmax", "sigmoid", "regression"]), default="linear",
              help="Weigh 256 depths so, or take a single output.")  # fmt: skip
@click.option(
    "--eigen-crop", is_flag=True, help="Score the crop of Eigen et al. alone (needs --size 480x640)."
)
@probe_options
def depth(
    upsamplers: tuple[str, ...], backbone: str, data: str, weights: str | None, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], size: ImageSize, device: str,
    threads: int | None, baseline: bool, controls: tuple[str, ...], cache: str, workers: int, out: str | None,
    picture: str | None, allow_changed_images: bool, format_: str, as_json: bool, save: str | None, **protocol: Any,
) -> None:  # fmt: skip
    """Linear-probe depth: share of nearly right depths of a 1x1 convolution on frozen upsampled features.

    DATA holds {train,test}/{rgb,depth}: pictures, and 16-bit grey PNGs of the same names, 0 where the depth is not
    known; or rgb/ and depth/ alone, with --train-data; or NYUv2's nyu_depth_v2_labeled.mat and splits.mat. The
    defaults are the published protocol, which upsamples every image anew in every epoch. --train-pixels N is a
    different, much cheaper one, without the loss of gradients; compare upsamplers under the same one.
    """
    use_threads(threads)
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from .depth import Depth, DepthProtocol

    settings = {**protocol, "size": size}
    read_settings(DepthProtocol.read, settings)
    where = pick_device(device)
    hint_at_time(contenders, where, protocol)
    report = Depth().evaluate(
        contenders,
        data,
        settings,
        backbone=behind,
        device=where,
        baseline=baseline,
        cache=cache,
        workers=workers,
        out=out,
        picture=picture,
        controls=controls,
        allow_changed_images=allow_changed_images,
        on_result=teller("delta1", "delta1"),
    )
    tell_skipped(report, "a depth")
    show_report(report, format_, as_json, save)

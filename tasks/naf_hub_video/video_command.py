"""``naf-hub eval video``."""

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
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    read_settings,
    report_options,
    show_report,
    square_option,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
    use_threads,
)

ONE_UP = click.IntRange(min=1)


@click.command(context_settings={"show_default": True})
@upsampler_option(multiple=True)
@upsampler_weights_option()
@backbone_option(required=True)
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@click.option(
    "--data", required=True, type=click.Path(), help="Read this folder in the layout of DAVIS 2017."
)
@click.option(
    "--preset",
    default="paper",
    type=click.Choice(["paper", "code", "lift"]),
    help="Start from these settings: size 448, factor 2, topk 20, radius 24; or each video's own size, 1, 5, "
    "12; or 224, 2, 5, 12.",
)
@square_option(None, "Squash frames to N x N pixels for the backbone, as published.")
@click.option(
    "--factor", type=ONE_UP, help="Upsample features, and carry masks, at so many times their grid."
)
@click.option("--topk", type=ONE_UP, help="Take each cell's mask from so many most similar cells.")
@click.option("--radius", type=click.IntRange(min=0), help="Look so many cells around; 0 looks everywhere.")
@click.option("--context", default=7, type=ONE_UP, help="Keep so many preceding frames, beside the first.")
@click.option(
    "--temperature", default=0.1, type=click.FloatRange(min=0.02), help="Divide similarities by this."
)
@click.option(
    "--guidance",
    default="grid",
    type=click.Choice(["grid", "frame"]),
    help="Guide by the frame shrunk to the output's size, as published, or as the backbone sees it.",
)
@click.option(
    "--length",
    default=0,
    type=click.IntRange(min=0),
    help="Use so many frames of each video, from its start; 0 uses all.",
)
@click.option(
    "--video",
    "videos",
    multiple=True,
    metavar="NAME",
    help="Use this video alone; repeatable. Default is all that DATA lists.",
)
@control_option
@device_option
@threads_option
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write masks and figures of each video here; an interrupted run goes on from them.",
)
@click.option(
    "--picture",
    type=click.Path(file_okay=False),
    metavar="DIR",
    help="Write a strip of frames with their masks here, a PNG a video.",
)
@report_options
def video(
    upsamplers: tuple[str, ...], weights: str | None, backbone: str, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], data: str, device: str,
    threads: int | None, controls: tuple[str, ...], out: str | None, picture: str | None, format_: str, as_json: bool,
    save: str | None, **protocol: Any,
) -> None:  # fmt: skip
    """Video object segmentation: masks of the first frame, carried on by the likeness of features; no training.

    DATA holds JPEGImages/480p, Annotations/480p and, where not all videos are meant, ImageSets/2017/val.txt.
    """
    use_threads(threads)
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from .video_protocol import VideoProtocol
    from .video_segmentation import VideoSegmentation

    # What is not given is the preset's.
    settings = {key: value for key, value in protocol.items() if value is not None}
    read_settings(VideoProtocol.read, settings)
    report = VideoSegmentation().evaluate(
        contenders,
        data,
        settings,
        backbone=behind,
        device=pick_device(device),
        controls=controls,
        out=out,
        picture=picture,
    )
    for name, lost in report.data["lost"].items():
        for number in lost:
            click.echo(f"{name}: object {number} is too small for the grid and cannot be followed", err=True)
    show_report(report, format_, as_json, save)

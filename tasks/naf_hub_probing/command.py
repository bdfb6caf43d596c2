"""``naf-hub eval segmentation``."""

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

from .presets import FOLDER, LAYOUT_NAMES, MODES, PRESETS
from .probe_options import given, hint_at_time, model_options, probe_options, tell_skipped, teller


@click.command()
@model_options
@click.option("--data", required=True, type=click.Path(),
              help="Read this folder: with train/, val/ and classes.json, or a published data set's.")  # fmt: skip
@click.option(
    "--layout",
    type=click.Choice([FOLDER, *LAYOUT_NAMES]),
    help="Read DATA so; default is to find out.",
)
@click.option(
    "--allow-incomplete", is_flag=True, help="Take a published data set although pictures are missing."
)
@click.option("--preset", type=click.Choice(list(PRESETS)),
              help="Take the paper's settings for a data set; what else is given replaces them.")  # fmt: skip
@size_option("448", "Bring pictures to this size, and for N cut the centre N x N", native=None)
@size_option(None, "Bring labels and output to this size, else to N x N, or to the labels' own with --size HxW",
             native=None, name="--label-size")  # fmt: skip
@click.option("--mode", type=click.Choice(MODES), default="upsample", show_default=True,
              help="filter: keep the features' size with the upsampler, then enlarge them bilinearly.")  # fmt: skip
@click.option("--enlarge", type=click.IntRange(min=1), default=1, show_default=True,
              help="Show backbone and upsampler an image so many times as large; labels keep their size.")  # fmt: skip
@probe_options
def segmentation(
    upsamplers: tuple[str, ...], backbone: str, data: str, weights: str | None, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], size: ImageSize, label_size: ImageSize,
    device: str, threads: int | None, baseline: bool, controls: tuple[str, ...], cache: str, workers: int,
    out: str | None, picture: str | None, allow_changed_images: bool, format_: str, as_json: bool, save: str | None,
    **protocol: Any,
) -> None:  # fmt: skip
    """Linear-probe segmentation: mIoU of a 1x1 convolution on frozen upsampled features.

    DATA holds {train,val}/images, {train,val}/labels (one class id a pixel) and classes.json; or COCO-Stuff, Pascal
    VOC, ADE20K, Cityscapes or KITTI-360 as published. The defaults are the published protocol: it upsamples every
    image anew in every epoch. --train-pixels N is a different, much cheaper protocol; compare upsamplers under the
    same one.
    """
    use_threads(threads)
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from .report import last_epoch_table
    from .segmentation import Segmentation, SegmentationProtocol

    settings = given({**protocol, "size": size, "label_size": label_size})
    read_settings(SegmentationProtocol.read, settings)
    where = pick_device(device)
    hint_at_time(contenders, where, protocol)
    report = Segmentation().evaluate(
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
        on_result=teller("mIoU", "miou"),
    )
    tell_skipped(report, "a label")
    show_report(report, format_, as_json, save)
    if format_ == "table" and not as_json:
        click.echo(last_epoch_table(report))

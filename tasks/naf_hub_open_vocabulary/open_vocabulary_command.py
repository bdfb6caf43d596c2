"""``naf-hub eval open-vocabulary``."""

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

from .vocabulary_options import check_vocabulary, clip_option, threshold_option, window_options


@click.command("open-vocabulary")
@upsampler_option(multiple=True)
@upsampler_weights_option()
@backbone_option(required=True)
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@click.option("--data", required=True, type=click.Path(),
              help="Read this folder: VOC 2012, or val/images, val/labels and classes.json.")  # fmt: skip
@click.option("--classes", metavar="WORDS", callback=check_vocabulary,
              help="Look for these classes, in the order of the labels: voc21, voc20, a .txt file with a class a line, "
                   "or words with commas between classes and semicolons between synonyms; default are those of the "
                   "data.")  # fmt: skip
@clip_option
@window_options
@click.option("--beta", default=1.2, show_default=True,
              help="Take so many times the mean similarity as none.")  # fmt: skip
@click.option(
    "--gamma",
    default=3.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Sharpen the attention by this factor.",
)
@threshold_option
@limit_option()
@click.option("--baseline", is_flag=True, help="Add the row of CLIP alone, without a backbone.")
@control_option
@device_option
@threads_option
@results_option
@report_options
def open_vocabulary(
    upsamplers: tuple[str, ...], weights: str | None, backbone: str, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], data: str, device: str,
    threads: int | None, baseline: bool, controls: tuple[str, ...], out: str | None, format_: str, as_json: bool,
    save: str | None, **protocol: Any,
) -> None:  # fmt: skip
    """Open-vocabulary segmentation: mIoU of CLIP whose last block attends by upsampled features; no training.

    CLIP's weights come from the Hub, and OpenCLIP with the extra "eval". Figures of different presets do not compare.
    """
    use_threads(threads)
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from naf_hub.confusion import class_table

    from .open_vocabulary import OpenVocabulary
    from .vocabulary_protocol import VocabularyProtocol

    read_settings(VocabularyProtocol.read, protocol)
    report = OpenVocabulary().evaluate(
        contenders,
        data,
        protocol,
        backbone=behind,
        device=pick_device(device),
        baseline=baseline,
        controls=controls,
        out=out,
    )
    tell_skipped(report.data["skipped"].values())
    tell_left_out(report.data["images_without_label"], "a label")
    show_report(report, format_, as_json, save)
    if format_ == "table" and not as_json:
        shares = {row.label: row.extras["iou"] for row in report.rows}
        click.echo(class_table("IoU per class:", report.data["classes"], shares))

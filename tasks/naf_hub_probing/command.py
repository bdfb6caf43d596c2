"""``naf-hub eval segmentation``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from naf_hub.options import (
    allow_changed_images_option,
    backbone_constructor_option,
    backbone_option,
    backbone_weights_option,
    constructor_option,
    control_option,
    device_option,
    parse_backbone_option,
    parse_upsamplers,
    pick_device,
    report_options,
    show_report,
    upsampler_option,
    upsampler_weights_option,
)

if TYPE_CHECKING:
    from naf_hub.reports import Row


@click.command()
@upsampler_option(multiple=True)
@backbone_option(required=True)
@click.option(
    "--data", required=True, type=click.Path(), help="Read this folder with train/, val/ and classes.json."
)
@upsampler_weights_option()
@backbone_weights_option
@constructor_option
@backbone_constructor_option
@click.option("--size", default="448", show_default=True, metavar="S|HxW",
              help="With S, bring the shorter side to S and crop S x S from the centre; with HxW, resize "
                   "the whole image.")  # fmt: skip
@click.option("--label-size", metavar="S|HxW",
              help="Bring labels and output to this size; default is S, or the labels' own size with HxW.")  # fmt: skip
@click.option(
    "--epochs",
    default=20,
    show_default=True,
    type=click.IntRange(min=1),
    help="Train for so many passes over the data.",
)
@click.option(
    "--batch-size",
    default=2,
    show_default=True,
    type=click.IntRange(min=1),
    help="Take so many images a step.",
)
@click.option(
    "--lr",
    default=5e-4,
    show_default=True,
    type=float,
    help="Start from this learning rate, which falls to 0 along a cosine.",
)
@click.option(
    "--weight-decay",
    default=1e-5,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Use this weight decay in AdamW.",
)
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(min=0),
    help="Draw head, order and flips from this seed.",
)
@click.option(
    "--seeds",
    default=1,
    show_default=True,
    type=click.IntRange(min=1),
    help="Train heads from so many seeds, and print means and spread.",
)
@control_option
@click.option("--flip/--no-flip", default=True, show_default=True,
              help="Mirror half of the training batches (not with --train-pixels).")  # fmt: skip
@click.option("--train-pixels", type=click.IntRange(min=1), metavar="N",
              help="Take the fast protocol: upsample each training image once and keep N random pixels.")  # fmt: skip
@click.option("--standardize", is_flag=True, help="Standardise feature channels for the head.")
@click.option("--baseline", is_flag=True, help="Add a row without a network, of RGB statistics per cell.")
@click.option(
    "--limit", type=click.IntRange(min=1), help="Use at most so many images a split, evenly spaced."
)
@click.option(
    "--limit-train", type=click.IntRange(min=1), help="Use at most so many images for training alone."
)
@click.option("--cache", type=click.Choice(["auto", "float32", "float16", "off"]), default="auto",
              show_default=True, help="Keep features in memory in this precision.")  # fmt: skip
@click.option("--workers", default=0, show_default=True, type=click.IntRange(min=0),
              help="Read images in so many processes.")  # fmt: skip
@device_option
@click.option(
    "--out",
    type=click.Path(file_okay=False),
    help="Write the trained heads here, and the log of their training; an interrupted one goes on.",
)
@allow_changed_images_option
@report_options
def segmentation(
    upsamplers: tuple[str, ...], backbone: str, data: str, weights: str | None, backbone_weights: str | None,
    options: dict[str, Any], backbone_options: dict[str, Any], size: str, label_size: str | None, device: str,
    baseline: bool, controls: tuple[str, ...], cache: str, workers: int, out: str | None,
    allow_changed_images: bool, format_: str, as_json: bool, save: str | None, **protocol: Any,
) -> None:  # fmt: skip
    """Linear-probe segmentation: mIoU of a 1x1 convolution on frozen upsampled features.

    DATA holds {train,val}/images, {train,val}/labels (one class id a pixel) and classes.json. The defaults
    are the published protocol: it upsamples every image anew in every epoch. --train-pixels N is a
    different, much cheaper protocol; compare upsamplers under the same one.
    """
    from .transforms import parse_size

    try:
        sizes = parse_size(size), None if label_size is None else parse_size(label_size)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
    contenders = parse_upsamplers(upsamplers, weights, options)
    behind = parse_backbone_option(backbone, backbone_weights, backbone_options)

    from .report import class_table
    from .segmentation import Segmentation

    where = pick_device(device)
    learned = [contender.name for contender in contenders if contender.record.learned]
    if learned and where == "cpu" and protocol["train_pixels"] is None:
        click.echo(
            f"hint: {learned[0]} will upsample every training image {protocol['epochs']} times, which is slow on a "
            "CPU; --train-pixels 2048 does it once",
            err=True,
        )
    report = Segmentation().evaluate(
        contenders,
        data,
        {**protocol, "size": sizes[0], "label_size": sizes[1]},
        backbone=behind,
        device=where,
        baseline=baseline,
        cache=cache,
        workers=workers,
        out=out,
        controls=controls,
        allow_changed_images=allow_changed_images,
        on_result=_tell,
    )
    for split in ("train", "val"):
        for line in report.data[split]["skipped"]:
            click.echo(f"skipped ({split}): {line}", err=True)
    show_report(report, format_, as_json, save)
    if format_ == "table" and not as_json:
        click.echo(class_table(report))


def _tell(row: Row) -> None:
    # A comparison takes long: what is known is told at once, apart from the report on stdout.
    last, seconds = row.extras["last"], sum(row.extras["seconds"].values())
    click.echo(f"{row.label}: mIoU {last['miou']:.2f} after epoch {last['epoch']}, {seconds:.0f} s", err=True)

"""``naf-hub eval segmentation``."""

from __future__ import annotations

from typing import Any

import click

from naf_hub import info
from naf_hub.commands.options import parse_options, parse_weights, print_json


@click.command()
@click.option(
    "--upsampler", "upsamplers", multiple=True, required=True, metavar="NAME[=WEIGHTS]",
    help="Upsampler, with weights of its own if need be (naf=FOLDER, naf=none). Repeat to compare.",
)  # fmt: skip
@click.option("--backbone", required=True, help="Backbone name, or timm:<model>.")
@click.option("--data", required=True, type=click.Path(), help="Folder with train/, val/ and classes.json.")
@click.option("--weights", default="default", show_default=True, callback=parse_weights,
              help="Weights of learned upsamplers: named set, path, hf://, or none (random).")  # fmt: skip
@click.option("--backbone-weights", default="default", show_default=True, callback=parse_weights,
              help="The same for the backbone.")  # fmt: skip
@click.option("--backbone-option", "backbone_options", multiple=True, metavar="KEY=VALUE",
              callback=parse_options,
              help="Constructor option of the backbone.")  # fmt: skip
@click.option("--size", default="448", show_default=True, metavar="S|HxW",
              help="S: shorter side to S, then centre crop S x S. HxW: the whole image.")  # fmt: skip
@click.option("--label-size", metavar="S|HxW",
              help="Size of labels and output; default S, or the labels' own size with HxW.")  # fmt: skip
@click.option(
    "--epochs", default=20, show_default=True, type=click.IntRange(min=1), help="Passes over the data."
)
@click.option("--batch-size", default=2, show_default=True, type=click.IntRange(min=1), help="Images a step.")
@click.option("--lr", default=5e-4, show_default=True, type=float, help="Learning rate; cosine to 0.")
@click.option(
    "--weight-decay", default=1e-5, show_default=True, type=click.FloatRange(min=0), help="Of AdamW."
)
@click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Of head, order and flips."
)
@click.option("--flip/--no-flip", default=True, show_default=True,
              help="Mirror half of the training batches (not with --train-pixels).")  # fmt: skip
@click.option("--train-pixels", type=click.IntRange(min=1), metavar="N",
              help="Fast protocol: upsample each training image once, keep N random pixels.")  # fmt: skip
@click.option("--standardize", is_flag=True, help="Standardise feature channels for the head.")
@click.option("--baseline", is_flag=True, help="Add a row without a network: RGB statistics per cell.")
@click.option("--limit", type=click.IntRange(min=1), help="At most that many images a split, evenly spaced.")
@click.option("--limit-train", type=click.IntRange(min=1), help="The same for training alone.")
@click.option("--cache", type=click.Choice(["auto", "float32", "float16", "off"]), default="auto",
              show_default=True, help="Precision of the features kept in memory.")  # fmt: skip
@click.option("--workers", default=0, show_default=True, type=click.IntRange(min=0),
              help="Processes that read images.")  # fmt: skip
@click.option("--device", help="cpu, cuda, ...; default cuda where present.")
@click.option("--out", type=click.Path(file_okay=False), help="Folder for the trained heads (safetensors).")
@click.option("--json", "as_json", is_flag=True, help="Print machine-readable output.")
def segmentation(
    upsamplers: tuple[str, ...],
    size: str,
    label_size: str | None,
    epochs: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    seed: int,
    flip: bool,
    train_pixels: int | None,
    device: str | None,
    as_json: bool,
    **options: Any,
) -> None:
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

    import torch

    from .report import table
    from .segmentation import evaluate
    from .training import Recipe

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    learned = [name for name in upsamplers if info(name.partition("=")[0]).learned]
    if learned and device == "cpu" and train_pixels is None:
        click.echo(
            f"hint: {learned[0]} will upsample every training image {epochs} times, which is slow on a CPU; "
            "--train-pixels 2048 does it once",
            err=True,
        )
    recipe = Recipe(epochs, batch_size, lr, weight_decay, seed, flip, train_pixels)
    report = evaluate(
        upsamplers=upsamplers,
        size=sizes[0],
        label_size=sizes[1],
        recipe=recipe,
        device=device,
        on_result=_tell,
        **options,
    )
    for split in ("train", "val"):
        for line in report["data"][split]["skipped"]:
            click.echo(f"skipped ({split}): {line}", err=True)
    if as_json:
        print_json(report)
    else:
        click.echo(table(report))


def _tell(row: dict[str, Any]) -> None:
    # A comparison takes long: what is known is told at once, apart from the report on stdout.
    last, seconds = row["last"], sum(row["seconds"].values())
    click.echo(
        f"{row['upsampler']}: mIoU {last['miou']:.2f} after epoch {last['epoch']}, {seconds:.0f} s", err=True
    )

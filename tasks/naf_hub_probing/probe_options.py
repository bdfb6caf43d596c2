"""What the commands of linear probes share: their options, and what they say on stderr."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from naf_hub.options import (
    allow_changed_images_option,
    backbone_constructor_option,
    backbone_option,
    backbone_weights_option,
    constructor_option,
    control_option,
    device_option,
    report_options,
    threads_option,
    upsampler_option,
    upsampler_weights_option,
)
from naf_hub.terminal import tell_left_out
from naf_hub.terminal import tell_skipped as tell_files

if TYPE_CHECKING:
    from naf_hub.contenders import Contender
    from naf_hub.reports import Report, Row

F = TypeVar("F", bound=Callable[..., Any])

_MODELS = (
    upsampler_option(multiple=True),
    backbone_option(required=True),
    upsampler_weights_option(),
    backbone_weights_option,
    constructor_option,
    backbone_constructor_option,
)
_PROTOCOL = (
    click.option(
        "--epochs",
        default=20,
        show_default=True,
        type=click.IntRange(min=1),
        help="Train for so many passes over the data.",
    ),
    click.option(
        "--batch-size",
        default=2,
        show_default=True,
        type=click.IntRange(min=1),
        help="Take so many images a step.",
    ),
    click.option(
        "--lr",
        default=5e-4,
        show_default=True,
        type=click.FloatRange(min=0, min_open=True),
        help="Start from this learning rate, which falls to 0 along a cosine.",
    ),
    click.option(
        "--weight-decay",
        default=1e-5,
        show_default=True,
        type=click.FloatRange(min=0),
        help="Use this weight decay in AdamW.",
    ),
    click.option(
        "--seed",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Draw head, order and flips from this seed.",
    ),
    click.option(
        "--seeds",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="Train heads from so many seeds, and print means and spread.",
    ),
    control_option,
    click.option(
        "--flip/--no-flip",
        default=True,
        show_default=True,
        help="Mirror half of the training batches (not with --train-pixels).",
    ),
    click.option(
        "--train-pixels",
        type=click.IntRange(min=1),
        metavar="N",
        help="Take the fast protocol: upsample each training image once and keep N random pixels.",
    ),
    click.option("--standardize", is_flag=True, help="Standardise feature channels for the head."),
    click.option("--baseline", is_flag=True, help="Add a row without a network, of RGB statistics per cell."),
    click.option(
        "--limit", type=click.IntRange(min=1), help="Use at most so many images a split, evenly spaced."
    ),
    click.option(
        "--limit-train", type=click.IntRange(min=1), help="Use at most so many images for training alone."
    ),
    click.option(
        "--cache",
        type=click.Choice(["auto", "float32", "float16", "off"]),
        default="auto",
        show_default=True,
        help="Keep features in memory in this precision.",
    ),
    click.option(
        "--workers",
        default=0,
        show_default=True,
        type=click.IntRange(min=0),
        help="Read images in so many processes.",
    ),
    device_option,
    threads_option,
    click.option(
        "--out",
        type=click.Path(file_okay=False),
        help="Write the trained heads here, and the log of their training; an interrupted one goes on.",
    ),
    allow_changed_images_option,
    click.option(
        "--picture",
        type=click.Path(file_okay=False),
        metavar="DIR",
        help="Write a few predictions beside the truth and the errors here, NAME.png.",
    ),
    report_options,
)


def model_options(command: F) -> F:
    """Options that say what is compared."""
    return _decorate(command, _MODELS)


def probe_options(command: F) -> F:
    """Options of every linear probe: recipe, seeds, controls, limits, where to write, how to print."""
    return _decorate(command, _PROTOCOL)


def _decorate(command: F, options: Sequence[Callable[[F], F]]) -> F:
    for option in reversed(options):
        command = option(command)
    return command


def given(protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Those settings of the protocol that stand on the command line; a preset decides the others."""
    context = click.get_current_context()
    defaults = click.core.ParameterSource.DEFAULT
    return {key: value for key, value in protocol.items() if context.get_parameter_source(key) != defaults}


def hint_at_time(contenders: Sequence[Contender], device: str, protocol: Mapping[str, Any]) -> None:
    """Say so where learned upsamplers will run for long on a CPU."""
    learned = [contender.name for contender in contenders if contender.record.learned]
    if learned and device == "cpu" and protocol["train_pixels"] is None:
        click.echo(
            f"hint: {learned[0]} will upsample every training image {protocol['epochs']} times, which is slow on a "
            "CPU; --train-pixels 2048 does it once",
            err=True,
        )


def tell_skipped(report: Report, known: str) -> None:
    """Name the pairs that could not be read, and count the pictures without what must be ``known`` of them."""
    for split in ("train", "val"):
        counts = report.data[split]
        tell_files(counts["skipped"], split)
        tell_left_out(counts["images_without_label"], known, split)


def teller(title: str, key: str) -> Callable[[Row], None]:
    """What tells the figure ``key`` of each row at once: a comparison takes long, and the report comes at its end."""

    def tell(row: Row) -> None:
        last, seconds = row.extras["last"], sum(row.extras["seconds"].values())
        click.echo(
            f"{row.label}: {title} {last[key]:.2f} after epoch {last['epoch']}, {seconds:.0f} s", err=True
        )

    return tell

"""Options that both commands of this package have."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from .vocabulary import Vocabulary
from .vocabulary_protocol import OPENAI_CLIP, PRESETS

F = TypeVar("F", bound=Callable[..., Any])


def check_vocabulary(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    """Words as they were given, once they can be read.

    Raises:
        click.BadParameter: they cannot.
    """
    if text is not None:
        try:
            Vocabulary.parse(text)
        except (ValueError, OSError) as error:
            raise click.BadParameter(str(error)) from error
    return text


clip_option = click.option(
    "--clip", default=OPENAI_CLIP, show_default=True, metavar="SOURCE",
    help="Take this CLIP of OpenCLIP's layout: hf://owner/repo[@revision] or a folder.",
)  # fmt: skip


def window_options(command: F) -> F:
    """``--preset``, what replaces its numbers, and ``--scale``."""
    for option in (
        click.option("--scale", type=click.IntRange(min=1),
                     help="Upsample the features so many times; default is 4 for patches of 14 and 16 pixels."),
        click.option("--stride", type=click.IntRange(min=1), help="Cut a window every so many pixels."),
        click.option("--crop", type=click.IntRange(min=1), help="Cut windows of so many pixels."),
        click.option("--short-side", type=click.IntRange(min=1),
                     help="Bring the short side to so many pixels."),
        click.option("--preset", default="naf", show_default=True, type=click.Choice(list(PRESETS)),
                     help="Take short side, window and stride from here."),
    ):  # fmt: skip
        command = option(command)
    return command


threshold_option = click.option(
    "--threshold", type=click.FloatRange(0, 1),
    help="Where no class is as probable as this, take the first; default is 0.2 for voc21, else 0.",
)  # fmt: skip

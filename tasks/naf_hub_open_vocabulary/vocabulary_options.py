"""Options that both commands of this package have."""

from __future__ import annotations

import click

from .vocabulary import Vocabulary
from .vocabulary_protocol import OPENAI_CLIP, PRESETS


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
preset_option = click.option(
    "--preset", default="naf", show_default=True, type=click.Choice(list(PRESETS)),
    help="Take short side, window and stride from here.",
)  # fmt: skip
threshold_option = click.option(
    "--threshold", type=click.FloatRange(0, 1),
    help="Where no class is as probable as this, take the first; default is 0.2 for voc21, else 0.",
)  # fmt: skip

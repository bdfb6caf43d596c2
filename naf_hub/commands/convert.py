"""``naf-hub convert``: makes a folder of weights from a pickle."""

from __future__ import annotations

from typing import Any

import click

from ..name_completion import complete_names
from ..options import pairs_option


@click.command("convert")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Write this folder.")
@click.option("--name", shell_complete=complete_names(),
              help="Convert for this registered name; the weights must fit it."
                   "  [default: the only one they fit]")  # fmt: skip
@pairs_option(
    "--option", "options", "Set a constructor option that the weights need, e.g. dim=96; repeatable."
)
@click.option("--key", "keys", multiple=True, metavar="KEY",
              help="Take the state dict under this key of FILE, or what begins so; repeat it for one within the other, "
                   "outermost first.  [default: what NAME's record says, or what fits]")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing folder.")
def convert_command(
    file: str, out: str, name: str | None, options: dict[str, Any], keys: tuple[str, ...], force: bool
) -> None:
    """Convert a pickle (.pth, .pt, .bin) FILE to a folder with model.safetensors and config.json.

    The pickle is read with weights_only=True: no code in it can run.
    """
    from ..weights.convert import convert
    from ..weights.files import CONFIG, read_config

    folder = convert(file, out, name, options, keys=keys or None, force=force)
    click.echo(f"wrote {folder}: weights of {read_config(folder / CONFIG)['name']}")

"""``naf-hub pin``: a lock file of what the weights of a project are."""

from __future__ import annotations

import click

from ..name_completion import complete_names
from ..terminal import print_json, print_table


@click.command("pin")
@click.argument("targets", metavar="NAME[=SET]...", nargs=-1, required=True, shell_complete=complete_names())
@click.option(
    "-o", "--out", type=click.Path(dir_okay=False), default="naf-hub.lock", show_default=True, envvar="NAF_HUB_LOCK",
    show_envvar=True, help="Write this lock file, or add to it.",
)  # fmt: skip
@click.option("--update", is_flag=True, help="Resolve anew what is in the lock file already.")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def pin_command(targets: tuple[str, ...], out: str, update: bool, as_json: bool) -> None:
    """Write the commits, sizes and checksums of weights to a lock file.

    NAME is an upsampler or backbone, SET one of its named sets (default "default") or hf://owner/repo. The weights
    are downloaded where they are not cached. With the environment variable NAF_HUB_LOCK=FILE, exactly those
    weights are loaded, and others are refused.
    """
    from ..weights.lock import pin

    done = pin(targets, out, update=update)
    if as_json:
        print_json({"file": out, "sources": done})
        return
    print_table([(state, source) for source, state in sorted(done.items())])
    click.echo(f"wrote {out}; it binds with NAF_HUB_LOCK={out}")

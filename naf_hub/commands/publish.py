"""``naf-hub publish``: a trained upsampler to the Hub."""

from __future__ import annotations

from typing import Any

import click

from ..terminal import print_json, tell


def _usage(check: str) -> Any:
    """A callback: what a check of :mod:`naf_hub.publishing.publishable` refuses is bad usage."""

    def callback(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
        from ..publishing import publishable

        try:
            return value if value is None else getattr(publishable, check)(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from error

    return callback


@click.command("publish")
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False))
@click.argument("repo", metavar="OWNER/NAME", callback=_usage("check_repo"))
@click.option("--private", is_flag=True, help="Make the repository private.")
@click.option(
    "--revision",
    default="main",
    show_default=True,
    callback=_usage("check_branch"),
    help="Commit to this branch.",
)
@click.option(
    "--message", help="Describe the commit in these words.  [default: name and checksum of the weights]"
)
@click.option(
    "--license", callback=_usage("check_license"),
    help="State this licence of the weights, as the Hub names it.  [default: the card's own, else apache-2.0]",
)  # fmt: skip
@click.option(
    "--dataset", "datasets", multiple=True, metavar="OWNER/NAME",
    help="Name this data set on the Hub as training data in the card; repeatable.",
)  # fmt: skip
@click.option("--token", help="Use this access token.  [default: HF_TOKEN, or that of `hf auth login`]")
@click.option("--dry-run", is_flag=True, help="Check, print the card and the list of files, send nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def publish_command(folder: str, repo: str, as_json: bool, **options: Any) -> None:
    """Publish the weights in DIR, a training run or a weights folder, on the Hugging Face Hub.

    The weights are checked and loaded first. The model card is completed with address, licence and checksums
    (DIR itself is left as it is), and everything goes up as one commit. Publish again to update.
    """
    from ..publishing.publish import publish

    report = publish(folder, repo, **options)
    for doubt in report["warnings"]:
        tell(doubt)
    if as_json:
        print_json(report)
        return
    if report["dry_run"]:
        click.echo(report["card"])
    for file in report["files"]:
        click.echo(f"{file['path']:<20} {file['size']:>12,} bytes  sha256 {file['sha256'][:16]}")
    if report["left_out"]:
        click.echo(f"left out: {', '.join(report['left_out'])}")
    if report["dry_run"]:
        click.echo(f"dry run: nothing was sent; this and the card above would go to {report['address']}")
        return
    click.echo(f"published {report['url']}")
    click.echo(f'load it with weights="{report["address"]}", or pinned: "{report["pinned"]}"')

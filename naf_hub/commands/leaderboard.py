"""``naf-hub leaderboard``: tasks, upsamplers and backbones from one file, in one ranked table."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import click

from ..options import FORMATS, device_option, pick_device, threads_option, use_threads
from ..terminal import tell


@click.command("leaderboard", context_settings={"show_default": True})
@click.argument("plan", metavar="PLAN")
@click.option("--out", "-o", required=True, type=click.Path(file_okay=False),
              help="Keep reports and tables in this folder; what is there already is not run again.")  # fmt: skip
@click.option(
    "--data-root",
    type=click.Path(file_okay=False),
    help="Relative paths of data start here; default the folder of PLAN.",
)
@click.option(
    "--no-run", is_flag=True, help="Evaluate nothing; make the tables of the reports that are there."
)
@click.option(
    "--format", "format_", default="table", type=click.Choice(FORMATS), help="Print the table in this format."
)
@device_option
@threads_option
def leaderboard_command(
    plan: str, out: str, data_root: str | None, no_run: bool, format_: str, device: str, threads: int | None
) -> None:
    """Compare upsamplers over tasks and backbones: run what is missing, keep every report, write one ranked table.

    PLAN is a TOML file or the name of a shipped plan. Each report is kept as it comes, so that an interrupted command
    goes on where it was, and a new row or column costs only itself. Several processes may fill one OUT at the same
    time. OUT gets leaderboard.md, .csv, .tex, .html and .json. Exits with 1 where something could not be evaluated.
    """
    from filelock import FileLock

    from ..atomic import atomic_file
    from ..extraction import require_writable
    from ..leaderboard import Kept, assemble, read_plan, run_missing
    from ..leaderboard.markdown import markdown
    from ..leaderboard.page import html
    from ..result_folder import claim_folder

    use_threads(threads)
    chosen = read_plan(plan, data_root)
    folder = Path(out)
    require_writable(folder)
    claim_folder(folder, "leaderboard", _is_leaderboard)
    kept = Kept(folder / "reports")
    failed = {} if no_run else run_missing(chosen, kept, pick_device(device), tell)
    with FileLock(folder / ".tables.lock"):  # the last of several processes has seen the reports of all
        board = assemble(chosen, kept, failed)
        texts = {
            "md": markdown(chosen, kept, board),
            "csv": board.table.csv(),
            "tex": board.table.latex(),
            "html": html(board, chosen.note),
            "json": board.table.to_json(),
        }
        for ending, text in texts.items():
            with atomic_file(folder / f"leaderboard.{ending}") as temporary:
                temporary.write_text(text.rstrip("\n") + "\n", encoding="utf-8")
    shown = board.table
    if format_ == "table" and not shown.rows:
        click.echo(f"{chosen.title}: no figures yet")
    else:
        click.echo({"table": shown.table, "json": shown.to_json, "csv": shown.csv, "markdown": shown.markdown,
                    "latex": shown.latex}[format_]())  # fmt: skip
    if board.paper is not None and format_ == "table":
        click.echo("\n" + board.paper.table())
    for line in board.notes():
        tell(line)
    if failed:
        sys.exit(1)


def _is_leaderboard(folder: Path) -> bool:
    """Whether a folder holds a table of ours, or reports."""
    from ..reports import Report, ReportError

    for path in (folder / "leaderboard.json", *(folder / "reports").glob("*.json")):
        with contextlib.suppress(OSError, ReportError):
            Report.load(path)
            return True
    return False

"""What commands print: tables that fit the terminal, and are not cut or wrapped where a pipe reads them."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import textwrap
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import click

from .escapes import one_line
from .reports import amount

# Text is wrapped beside the other columns where so many characters are left for it, else below them.
LEAST_ROOM = 24
BETWEEN = 60  # seconds between lines of progress in a log


def terminal_width() -> int | None:
    """Columns of the terminal that reads the standard output; ``None`` where it is a pipe or a file."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def print_json(data: Any) -> None:
    """Print plain data as indented JSON."""
    click.echo(json.dumps(data, indent=2))


def print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print left-aligned columns; the last is wrapped to the terminal, but words (addresses, say) stay whole."""
    if not rows:
        return
    width = terminal_width()
    widths = column_widths(row[:-1] for row in rows)
    indent = sum(widths) + 2 * len(widths)
    for row in rows:
        head = "".join(cell.ljust(wide + 2) for cell, wide in zip(row, widths, strict=False))
        if width is None:
            click.echo((head + row[-1]).rstrip())
        elif width - indent < LEAST_ROOM and len(row[-1]) > width - indent:
            click.echo(head.rstrip())
            _print_wrapped("    ", "    ", row[-1], width)
        else:
            _print_wrapped(head, " " * indent, row[-1], width)


def _print_wrapped(head: str, indent: str, text: str, width: int) -> None:
    # Names of packages and commands have hyphens; broken there they could not be copied.
    room = max(1, width - len(indent))
    lines = textwrap.wrap(text, room, break_on_hyphens=False, break_long_words=False) or [""]
    click.echo((head + lines[0]).rstrip())
    for line in lines[1:]:
        click.echo(indent + line)


def column_widths(rows: Iterable[Sequence[str]]) -> list[int]:
    """The longest cell of each column."""
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def print_line(line: str) -> None:
    """Print one line, cut where the terminal ends."""
    width = terminal_width()
    line = line.rstrip()
    click.echo(line if width is None or len(line) <= width else f"{line[: max(0, width - 1)]}…")


def is_quiet() -> bool:
    """Whether ``--quiet`` was given: nothing is told but results and failures."""
    return not logging.getLogger("naf_hub").isEnabledFor(logging.WARNING)


def tell(line: str) -> None:
    """Say something about a job on the standard error, unless ``--quiet`` was given."""
    if not is_quiet():
        click.echo(f"naf-hub: {line}", err=True)


def skip_line(reason: str, split: str = "") -> str:
    """How a file that is passed over is told; the reason names it, ``split`` the part of the data that it is of."""
    return f"skipped{f' ({split})' if split else ''}: {one_line(reason)}"


def tell_skipped(reasons: Iterable[str], split: str = "") -> None:
    """Name files that were passed over on the standard error, under ``--quiet`` too: they are failures."""
    for reason in reasons:
        click.echo(f"naf-hub: {skip_line(reason, split)}", err=True)


def tell_left_out(number: int, known: str, split: str = "") -> None:
    """Say how many pictures have no counterpart, such as ``"a label"``; nothing where all have one."""
    if number:
        tell(f"{amount(number, 'picture')} without {known} left out{f' ({split})' if split else ''}")


def no_bar(wanted: bool = True) -> bool | None:
    """What tqdm's ``disable`` is given: no bar under ``--quiet`` or where none is wanted, else one on a terminal."""
    return None if wanted and not is_quiet() else True


def progress_bar(
    work: Iterable[Any] | None = None, *, wanted: bool = True, first: float = 30, **options: Any
) -> Any:
    """A tqdm bar of a job: on a terminal as usual, elsewhere (a log) a line once a minute, under ``--quiet`` nothing.

    Args:
        work: what is gone through; without it the job calls ``update``.
        wanted: false for no bar at all.
        first: seconds to the first line of a log, so that short jobs write none.
        options: of tqdm, such as ``desc``, ``unit``, ``total`` and ``leave``.
    """
    from tqdm import tqdm

    if no_bar(wanted) or sys.stderr.isatty():
        return tqdm(work, disable=no_bar(wanted), **options)
    form = "{desc}: {n_fmt} of {total_fmt} {unit}, {elapsed} passed, {remaining} left{postfix}"
    options |= {
        "desc": options.get("desc", "progress"),
        "unit": f"{options.get('unit', 'step')}s",
        "leave": False,
    }
    return tqdm(work, file=_LogLines(first), bar_format=form, mininterval=min(first, 5), **options)


class _LogLines:
    """Where tqdm writes what it would show: a line after ``first`` seconds, and no other for :data:`BETWEEN` seconds.
    tqdm's own ``delay`` does not hold for remarks, which are shown at once."""

    def __init__(self, first: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.next = clock() + first

    def write(self, text: str) -> None:
        text = text.strip()  # of returns to the start of the line, and blanks over what stood there
        if text and self.clock() >= self.next:
            click.echo(f"naf-hub: {text}", err=True)
            self.next = self.clock() + BETWEEN

    def flush(self) -> None:
        pass

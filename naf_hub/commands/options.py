"""Options and output that several commands share, so that each means the same everywhere."""

from __future__ import annotations

import ast
import json
import shutil
import textwrap
from typing import Any

import click


def parse_options(_: click.Context, __: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """``key=value`` pairs, values read as Python literals where they are some, else as text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise click.BadParameter(f"{pair!r} is not key=value")
        try:
            options[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            options[key] = {"true": True, "false": False}.get(value.lower(), value)
    return options


def parse_weights(_: click.Context, __: click.Parameter, value: str) -> str | None:
    """``none`` on the command line is ``weights=None``: random initialisation."""
    return None if value == "none" else value


def print_json(data: Any) -> None:
    click.echo(json.dumps(data, indent=2))


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Left-aligned columns; the last is wrapped to the terminal."""
    if not rows:
        return
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    indent = sum(widths) + 2 * len(widths)
    room = max(30, shutil.get_terminal_size().columns - indent)
    for row in rows:
        head = "".join(cell.ljust(width + 2) for cell, width in zip(row, widths, strict=False))
        lines = textwrap.wrap(row[-1], room) or [""]
        click.echo((head + lines[0]).rstrip())
        for line in lines[1:]:
            click.echo(" " * indent + line)

"""``naf-hub list``, ``info`` and ``plugins``: what is registered, without importing torch."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import click

from .. import registry
from ..constructor_options import constructor_options
from ..errors import UnknownNameError
from ..kinds import KINDS, kind_of
from ..name_completion import complete_names
from ..record_facts import call_of, download_size, in_words, short_license, short_sets
from ..records import Record
from ..terminal import LEAST_ROOM, column_widths, print_json, print_line, print_table, terminal_width

# Columns behind the name; those that are empty for all of a kind are left out.
COLUMNS: dict[str, Callable[[Any], str]] = {
    "channels": lambda record: str(getattr(record, "embed_dim", "")),
    "patch": lambda record: str(getattr(record, "patch_size", "")),
    "parameters": lambda record: "" if record.parameters is None else in_words(record.parameters),
    "licence": short_license,
    "weights": short_sets,
}
# On a narrow terminal, before the licence is cut, which decides what a model may be used for.
FIRST_TO_GO = ("weights", "parameters", "patch", "channels")
NUMBERS = ("channels", "patch", "parameters")


@click.command("list")
@click.argument("pattern", required=False, shell_complete=complete_names())
@click.option(
    "--kind", type=click.Choice([kind.word for kind in KINDS]), help="List what is of this kind alone."
)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def list_command(pattern: str | None, kind: str | None, as_json: bool) -> None:
    """List what is registered, by family: a line a name, as wide as the terminal; whole in a pipe.

    PATTERN is a part of the name ('dino'), or a shell pattern for all of it ('naf*'). The licence is that of the
    weights: its name where it allows every use, else what to mind; naf-hub info NAME tells all.
    """
    found = registry.registry()
    kinds = [row for row in KINDS if kind in (None, row.word)]
    tables = {row.plural: [found.records[n] for n in found.names(row.record, pattern)] for row in kinds}
    if as_json:
        print_json({title: [record.to_dict() for record in records] for title, records in tables.items()})
        return
    if not any(tables.values()):
        place = "" if kind is None else f" of kind {kind}"
        raise UnknownNameError(f"nothing registered{place} matches {pattern!r}; naf-hub list shows all")
    for number, (title, records) in enumerate((t, r) for t, r in tables.items() if r):
        if number:
            click.echo()
        _print_records(title, records)
    prefixes = sorted(p.name for p in found.prefixes.values() if kind_of(p.kind) in kinds)
    if pattern is None and prefixes:
        print_line("also: " + ", ".join(f"{p}:<model name>" for p in prefixes))


def _rows(title: str, columns: Sequence[str], records: Sequence[Record]) -> list[tuple[str, ...]]:
    return [(title, *columns), *((f"  {r.name}", *(COLUMNS[c](r) for c in columns)) for r in records)]


def _print_records(title: str, records: Sequence[Record]) -> None:
    """Records of one kind under the headings of their families."""
    records = sorted(records, key=lambda record: (record.family.lower(), record.name))
    columns = [column for column, cell in COLUMNS.items() if any(map(cell, records))]
    width = terminal_width()
    rows = _rows(title, columns, records)
    for column in FIRST_TO_GO:
        if width is None or sum(column_widths(rows)) + 2 * len(columns) <= width:
            break
        columns = [kept for kept in columns if kept != column]
        rows = _rows(title, columns, records)
    widths = column_widths(rows)
    lines = [
        "  ".join(
            cell.rjust(wide) if column in NUMBERS else cell.ljust(wide)
            for column, cell, wide in zip(("", *columns), row, widths, strict=True)
        )
        for row in rows
    ]
    summaries = ["summary", *(record.summary for record in records)]
    if width is None or width - len(lines[0]) - 2 >= LEAST_ROOM:
        lines = [f"{line}  {summary}" for line, summary in zip(lines, summaries, strict=True)]
    print_line(lines[0])
    for family, members in groupby(zip(records, lines[1:], strict=True), lambda pair: pair[0].family):
        print_line(f" {family}")
        for _, line in members:
            print_line(line)


@click.command("info")
@click.argument("name", shell_complete=complete_names())
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def info_command(name: str, as_json: bool) -> None:
    """Show all that is recorded of one registered name, and what its constructor takes."""
    record = registry.info(name)
    data = record.to_dict()
    if as_json:
        print_json(data)
        return
    weights = data.pop("weights")
    for title, entry in weights.items():  # before anything is printed: the lock file may be unreadable
        entry |= {"download": download_size(record, record.weights[title])}
        if locked := _locked(name, title, entry["source"]):
            entry["revision"] = locked
        elif entry["repository"] and not entry["revision"]:
            entry["revision"] = f"main (not pinned; pin with weights='hf://{entry['repository']}@COMMIT')"
    del data["options"]  # among the constructor's, below
    data = {"code license" if key == "license" else key: value for key, value in data.items()}
    if record.parameters is not None:
        data["parameters"] = f"{record.parameters:,}"
    data["load with"] = call_of(record, kind_of(record).loader)
    print_table(_filled(data, ""))
    for title, entry in weights.items():
        click.echo(f"weights {title!r}:")
        print_table(_filled(entry, "  "))
    if options := constructor_options(record.target, record.options):
        click.echo("options, and their defaults:")
        print_table([(f"  {option.name}", option.default, option.text) for option in options])


def _filled(data: dict[str, Any], indent: str) -> list[tuple[str, str]]:
    return [(indent + key, str(value)) for key, value in data.items() if value not in (None, "", {}, [])]


def _locked(name: str, title: str, source: str) -> str | None:
    """What the lock file that ``NAF_HUB_LOCK`` names says of a set on the Hub; ``None`` where none binds."""
    if not source.startswith("hf://") or not os.environ.get("NAF_HUB_LOCK"):
        return None
    from ..weights.lock import binding_lock, key_of

    lock = binding_lock()
    assert lock is not None
    entry = lock.entries.get(key_of(source))
    if entry is None:
        target = name if title == "default" else f"{name}={title}"
        return f"not in {lock.path}, so refused; run: naf-hub pin {target} -o {lock.path}"
    return f"{entry.commit} (locked by {lock.path})"


@click.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def plugins_command(as_json: bool) -> None:
    """List the plugins found, what they provide, which failed to load, and what is wrong with others."""
    from ..plugin_doubts import doubts_about, misspelt_plugins

    plugins, misspelt = registry.registry().loader.plugins, misspelt_plugins()
    if as_json:
        every = [*plugins, *misspelt]
        print_json([plugin.to_dict() | {"doubts": doubts_about(plugin)} for plugin in every])
        return
    print_table(
        [(p.name, f"{p.distribution} {p.version}", f"FAILED: {p.error}" if p.error else ", ".join(p.hooks))
         for p in plugins]
    )  # fmt: skip
    for plugin in plugins:
        for doubt in doubts_about(plugin):
            click.echo(f"{plugin.distribution}: {doubt}")
    for plugin in misspelt:
        click.echo(f"{plugin.distribution}: {plugin.error}")

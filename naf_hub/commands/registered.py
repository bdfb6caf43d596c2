"""``naf-hub list``, ``info`` and ``plugins``: what is registered, without importing torch."""

from __future__ import annotations

import os

import click

from .. import registry
from ..errors import UnknownNameError
from ..kinds import KINDS
from ..options import print_json, print_table
from ..records import Record


@click.command("list")
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def list_command(pattern: str | None, as_json: bool) -> None:
    """List what is registered; PATTERN is a shell pattern such as 'naf*'."""
    found = registry.registry()
    tables = {kind.plural: [found.records[n] for n in found.names(kind.record, pattern)] for kind in KINDS}
    if as_json:
        print_json({title: [record.to_dict() for record in records] for title, records in tables.items()})
        return
    if not any(tables.values()):
        raise UnknownNameError(f"nothing registered matches {pattern!r}; naf-hub list shows all")
    for title, records in tables.items():
        if records:
            click.echo(f"{title}:")
            print_table([(f"  {r.name}", _few_sets(r), r.summary) for r in records])
    if pattern is None and found.prefixes:
        click.echo("also: " + ", ".join(f"{p}:<model name>" for p in sorted(found.prefixes)))


def _few_sets(record: Record) -> str:
    """Names of a record's weights, of more than two the first and how many more: ``info`` shows them all."""
    names = list(record.weights)
    return ", ".join(names if len(names) <= 2 else [names[0], f"+{len(names) - 1}"]) or "-"


@click.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def info_command(name: str, as_json: bool) -> None:
    """Show all that is recorded of one registered name."""
    data = registry.info(name).to_dict()
    if as_json:
        print_json(data)
        return
    weights = data.pop("weights")
    for title, entry in weights.items():  # before anything is printed: the lock file may be unreadable
        if locked := _locked(name, title, entry["source"]):
            entry["revision"] = locked
        elif entry["repository"] and not entry["revision"]:
            entry["revision"] = f"main (not pinned; pin with weights='hf://{entry['repository']}@COMMIT')"
    data = {"code license" if key == "license" else key: value for key, value in data.items()}
    rows = [(key, str(value)) for key, value in data.items() if value not in (None, "", {}, [])]
    print_table(rows)
    for title, entry in weights.items():
        click.echo(f"weights {title!r}:")
        print_table(
            [(f"  {key}", str(value)) for key, value in entry.items() if value not in (None, "", {}, [])]
        )


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

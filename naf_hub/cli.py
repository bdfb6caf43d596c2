"""The ``naf-hub`` command. Light at import: torch is imported by the commands that compute."""

from __future__ import annotations

import ast
import json
import logging
import shutil
import sys
import textwrap
from typing import Any

import click

from . import __version__, registry
from .errors import NafHubError, UnknownNameError
from .plugins import one_line
from .records import BackboneRecord, Record, TaskRecord, UpsamplerRecord

# What a user can cause and mend: told in one line. Anything else is told as unexpected, with --debug hinted.
EXPECTED = (NafHubError, ValueError, TypeError, OSError, NotImplementedError, MemoryError)


class Cli(click.Group):
    """A group whose failures are one line: exit 2 for bad usage, 1 for a failed job, 130 on Ctrl-C.

    The plugins' commands are added when the first command is looked up, inside the same error handling.
    """

    complete = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        self._complete()
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        self._complete()
        return super().get_command(ctx, cmd_name)

    def _complete(self) -> None:
        if not self.complete:
            self.complete = True
            _add_commands()

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        if not standalone_mode:
            return super().main(*args, standalone_mode=False, **extra)
        try:
            status = super().main(*args, standalone_mode=False, **extra)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)
        except (click.Abort, KeyboardInterrupt):
            click.echo("naf-hub: interrupted", err=True)
            sys.exit(130)
        except BrokenPipeError:
            sys.stderr.close()  # the reader of our output left; Python would complain again at exit
            sys.exit(1)
        except UnknownNameError as error:
            self._tell(error, str(error))
            sys.exit(2)
        except EXPECTED as error:
            self._tell(error, str(error) or one_line(error))
            sys.exit(1)
        except Exception as error:
            self._tell(error, f"unexpected {one_line(error)} (run `naf-hub --debug ...` for the traceback)")
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)

    @staticmethod
    def _tell(error: Exception, message: str) -> None:
        if _DEBUG["on"]:
            raise error
        click.echo("naf-hub: " + " ".join(message.split()), err=True)


_DEBUG = {"on": False}


def _set_debug(_: click.Context, __: click.Parameter, value: bool) -> None:
    _DEBUG["on"] = value
    if value:
        logging.getLogger("naf_hub").setLevel(logging.DEBUG)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="naf-hub")
@click.option("--debug", is_flag=True, expose_value=False, is_eager=True, callback=_set_debug,
              help="Show Python tracebacks and debug messages.")  # fmt: skip
def cli() -> None:
    """Per-pixel features from frozen vision backbones: any backbone, any upsampler, any resolution."""


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


@cli.command("list")
@click.argument("pattern", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the records as JSON.")
def list_command(pattern: str | None, as_json: bool) -> None:
    """List what is registered; PATTERN is a shell pattern such as 'naf*'."""
    found = registry.registry()
    kinds: list[tuple[str, type[Record]]] = [
        ("upsamplers", UpsamplerRecord), ("backbones", BackboneRecord), ("tasks", TaskRecord),
    ]  # fmt: skip
    tables = {title: [found.records[n] for n in found.names(kind, pattern)] for title, kind in kinds}
    if as_json:
        print_json({title: [record.to_dict() for record in records] for title, records in tables.items()})
        return
    if not any(tables.values()):
        raise UnknownNameError(f"nothing registered matches {pattern!r}; naf-hub list shows all")
    for title, records in tables.items():
        if records:
            click.echo(f"{title}:")
            print_table([(f"  {r.name}", ", ".join(r.weights) or "-", r.summary) for r in records])
    if pattern is None and found.prefixes:
        click.echo("also: " + ", ".join(f"{p}:<model name>" for p in sorted(found.prefixes)))


@cli.command("info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print the record as JSON.")
def info_command(name: str, as_json: bool) -> None:
    """Show all that is recorded of one upsampler, backbone or task."""
    data = registry.info(name).to_dict()
    if as_json:
        print_json(data)
        return
    weights = data.pop("weights")
    data = {"code license" if key == "license" else key: value for key, value in data.items()}
    rows = [(key, str(value)) for key, value in data.items() if value not in (None, "", {}, [])]
    print_table(rows)
    for title, entry in weights.items():
        click.echo(f"weights {title!r}:")
        if entry["repository"] and not entry["revision"]:
            entry["revision"] = f"main (not pinned; pin with weights='hf://{entry['repository']}@COMMIT')"
        print_table(
            [(f"  {key}", str(value)) for key, value in entry.items() if value not in (None, "", {}, [])]
        )


@cli.command("plugins")
@click.option("--json", "as_json", is_flag=True, help="Print as JSON.")
def plugins_command(as_json: bool) -> None:
    """List the plugins found, what they provide, and which failed to load."""
    plugins = registry.registry().loader.plugins
    if as_json:
        print_json([plugin.to_dict() for plugin in plugins])
        return
    print_table(
        [(p.name, f"{p.distribution} {p.version}", f"FAILED: {p.error}" if p.error else ", ".join(p.hooks))
         for p in plugins]
    )  # fmt: skip


@cli.command("convert")
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option("-o", "--out", required=True, type=click.Path(file_okay=False), help="Folder to write.")
@click.option("--name", required=True, help="Registered name the weights belong to; they must fit it.")
@click.option("--option", "options", multiple=True, metavar="KEY=VALUE", callback=parse_options,
              help="Constructor option the weights need, e.g. dim=96. Repeatable.")  # fmt: skip
@click.option("--force", is_flag=True, help="Replace an existing folder.")
def convert_command(file: str, out: str, name: str, options: dict[str, Any], force: bool) -> None:
    """Convert a pickle (.pth, .pt, .bin) FILE to a folder with model.safetensors and config.json.

    The pickle is read with weights_only=True: no code in it can run.
    """
    from .convert import convert

    click.echo(f"wrote {convert(file, out, name, options, force=force)}")


@cli.group("train")
def train_group() -> None:
    """Train a model; each task adds its command."""


@cli.group("eval")
def eval_group() -> None:
    """Evaluate a model; each task adds its command."""


def _add_commands() -> None:
    from . import bench, demo, publish, upsample

    for command in (
        upsample.upsample_command,
        bench.bench_command,
        demo.demo_command,
        publish.publish_command,
    ):
        cli.add_command(command)
    for plugin, add in registry.plugin_hooks():
        try:
            add(cli=cli)
        except Exception as error:  # a plugin's commands must not take the others down
            message = f"commands of plugin {plugin.name!r} ({plugin.distribution}) failed: {one_line(error)}"
            logging.getLogger("naf_hub").warning("%s", message)


def main() -> None:
    """Entry point of the ``naf-hub`` script."""
    logging.basicConfig(format="naf-hub: %(message)s", level=logging.WARNING)
    cli()


if __name__ == "__main__":
    main()

"""The ``naf-hub`` command. Light at import: torch is imported by the commands that compute."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import warnings
from typing import Any

import click

from .. import registry
from ..devices import let_waiting_threads_sleep
from ..errors import NafHubError, OptionError, UnknownNameError, as_typed
from ..memory import keep_freed_memory, shortage
from ..plugins import Plugin, one_line
from ..version import __version__
from .verbosity import add_verbosity

# What a user can cause and mend: told in one line. Anything else is told as unexpected, with --debug hinted.
EXPECTED = (NafHubError, ValueError, TypeError, OSError, NotImplementedError, MemoryError)

# Commands that do the same to picture after picture, and promise no bound of memory.
REPEATING = {"eval", "train", "leaderboard"}


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
        except (UnknownNameError, OptionError) as error:
            self._tell(error, str(error))
            sys.exit(2)
        except EXPECTED as error:
            self._tell(error, shortage(error) or as_typed(error) or one_line(error))
            sys.exit(1)
        except Exception as error:
            unexpected = f"unexpected {one_line(error)} (run `naf-hub --debug ...` for the traceback)"
            self._tell(error, shortage(error) or unexpected)
            sys.exit(1)
        sys.exit(status if isinstance(status, int) else 0)

    @staticmethod
    def _tell(error: Exception, message: str) -> None:
        if _DEBUG["on"]:
            raise error
        click.echo("naf-hub: " + " ".join(message.split()), err=True)


_DEBUG = {"on": False}


def _set_debug(context: click.Context, __: click.Parameter, value: bool) -> None:
    _DEBUG["on"] = value
    if value:
        logger = logging.getLogger("naf_hub")
        context.call_on_close(lambda before=logger.level: logger.setLevel(before))
        logger.setLevel(logging.DEBUG)


@click.group(cls=Cli, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, "-V", "--version", prog_name="naf-hub")
@click.option("--debug", is_flag=True, expose_value=False, is_eager=True, callback=_set_debug,
              help="Show Python tracebacks and debug messages.")  # fmt: skip
def cli() -> None:
    """Per-pixel features from frozen vision backbones: any backbone, any upsampler, any resolution."""


@cli.group("train")
def train_group() -> None:
    """Train a model; each task adds its command."""


@cli.group("eval")
def eval_group() -> None:
    """Evaluate a model; each task adds its command."""


add_verbosity(cli)  # its own options are parsed before the commands are looked up, which then get theirs


def _add_commands() -> None:
    from . import (
        app,
        bench,
        compare,
        completion,
        convert,
        demo,
        denoise,
        export,
        extract,
        leaderboard,
        new_plugin,
        pin,
        publish,
        registered,
        upsample,
    )

    for command in (
        registered.list_command,
        registered.info_command,
        registered.plugins_command,
        upsample.upsample_command,
        extract.extract_command,
        denoise.denoise_command,
        compare.compare_command,
        bench.bench_command,
        leaderboard.leaderboard_command,
        demo.demo_command,
        app.app_command,
        convert.convert_command,
        export.export_command,
        new_plugin.new_plugin_command,
        pin.pin_command,
        publish.publish_command,
        completion.completion_command,
    ):
        cli.add_command(command)
    for plugin, add in registry.plugin_hooks():
        before = _commands_of(cli)
        try:
            with contextlib.redirect_stdout(sys.stderr):  # what a plugin prints must not get into --json
                add(cli=cli)
        except (Exception, SystemExit) as error:  # a plugin's commands must not take the others down
            _warn(plugin, f"failed: {one_line(error)}")
        _keep(cli, before, plugin)
    add_verbosity(cli)


def _commands_of(group: click.Group) -> dict[str, Any]:
    """The commands of a group and of the groups in it."""
    return {
        name: (command, _commands_of(command) if isinstance(command, click.Group) else {})
        for name, command in group.commands.items()
    }


def _keep(group: click.Group, before: dict[str, Any], plugin: Plugin) -> None:
    """Put back what a plugin replaced or removed: names belong to who came first."""
    for name, (command, below) in before.items():
        if group.commands.get(name) is not command:
            _warn(plugin, f"may not replace the command {name!r}; it was put back")
            group.commands[name] = command
        if isinstance(command, click.Group):
            _keep(command, below, plugin)


def _warn(plugin: Plugin, what: str) -> None:
    message = f"commands of plugin {plugin.name!r} ({plugin.distribution}): {what}"
    logging.getLogger("naf_hub").warning("%s", message)


def main() -> None:
    """Entry point of the ``naf-hub`` script."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that a terminal cannot show ends no job
    # By default SIGTERM ends Python on the spot, and what was half-written would stay.
    signal.signal(signal.SIGTERM, _end)
    logging.basicConfig(format="naf-hub: %(message)s", level=logging.WARNING)
    warnings.formatwarning = _one_line_warning
    let_waiting_threads_sleep()
    if REPEATING & set(sys.argv[1:]):
        keep_freed_memory()
    cli()


def _one_line_warning(message: Warning | str, *_: object, **__: object) -> str:
    """What is said of a warning: not the line of code that gave it, which no user of a command knows."""
    return f"naf-hub: {' '.join(str(message).split())}\n"


def _end(number: int, _: object) -> None:
    sys.exit(128 + number)

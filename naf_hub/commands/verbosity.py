"""``-q`` and ``-v``: every command has them, those of plugins too, and takes them before its name as well."""

from __future__ import annotations

import logging

import click

LOG = logging.getLogger("naf_hub")


def _set_level(context: click.Context, parameter: click.Parameter, given: bool) -> None:
    if given:
        context.call_on_close(lambda before=LOG.level: LOG.setLevel(before))
        LOG.setLevel(logging.ERROR if parameter.name == "quiet" else logging.INFO)


def add_verbosity(command: click.Command) -> None:
    """Give a command, and those below it, ``--quiet`` and ``--verbose`` where it has no options of these names.

    A group hands what it is given on: the level is set before its command runs, and put back after it.
    """
    if isinstance(command, click.Group):
        for below in command.commands.values():
            add_verbosity(below)
    taken = {name for parameter in command.params for name in parameter.opts}
    for names, text in (
        (("-q", "--quiet"), "Say nothing but results and failures; show no bars."),
        (("-v", "--verbose"), "Also say what is loaded, and from where."),
    ):
        if not taken & set(names):
            option = click.Option(names, is_flag=True, expose_value=False, callback=_set_level, help=text)
            command.params.append(option)

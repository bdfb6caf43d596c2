"""The hooks a naf-hub plugin may implement. They grow only by adding hooks and arguments."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import pluggy

if TYPE_CHECKING:
    import click

    from .records import Record

PROJECT = "naf_hub"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Register(Protocol):
    """What a ``register_*`` hook receives."""

    def __call__(self, record: Record) -> None:
        """Register one record, of the kind that the hook is for."""
        ...

    def prefix(self, name: str, target: str) -> None:
        """Serve every name ``NAME:...``, for families of backbones too large to list.

        ``target`` is ``"module:function"``: called with what follows the colon, the function returns the record,
        whose name is the whole ``NAME:...``, or raises :class:`naf_hub.UnknownNameError`.
        """
        ...


@hookspec
def register_upsamplers(register: Register) -> None:
    """Call ``register(UpsamplerRecord(...))`` for each upsampler. Import nothing heavy here."""


@hookspec
def register_backbones(register: Register) -> None:
    """Call ``register(BackboneRecord(...))`` for each backbone, or ``register.prefix("timm", "module:function")`` to
    serve all names of a form. Import nothing heavy here."""


@hookspec
def register_restorers(register: Register) -> None:
    """Call ``register(RestorerRecord(...))`` for each restorer. Import nothing heavy here."""


@hookspec
def register_tasks(register: Register) -> None:
    """Call ``register(TaskRecord(...))`` for each task. Import nothing heavy here."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to ``cli`` or to its groups ``cli.commands["train"]`` and ``cli.commands["eval"]``."""

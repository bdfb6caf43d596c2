"""The four hooks a naf-hub plugin may implement. Grown only by adding arguments (``API_VERSION``)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from .records import BackboneRecord, TaskRecord, UpsamplerRecord

API_VERSION = 1
PROJECT = "naf_hub"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def register_upsamplers(register: Callable[[UpsamplerRecord], None]) -> None:
    """Call ``register(UpsamplerRecord(...))`` for each upsampler. Import nothing heavy here."""


@hookspec
def register_backbones(register: Callable[[BackboneRecord], None]) -> None:
    """Call ``register(BackboneRecord(...))`` for each backbone. Import nothing heavy here."""


@hookspec
def register_tasks(register: Callable[[TaskRecord], None]) -> None:
    """Call ``register(TaskRecord(...))`` for each task. Import nothing heavy here."""


@hookspec
def register_commands(cli: click.Group) -> None:
    """Add commands to ``cli`` or to its groups ``cli.commands["train"]`` and ``cli.commands["eval"]``."""

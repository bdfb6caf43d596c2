"""Names that a shell offers at TAB; see ``naf-hub completion``."""

from __future__ import annotations

from collections.abc import Callable

import click
from click.shell_completion import CompletionItem

from .records import BackboneRecord, Record, RestorerRecord, UpsamplerRecord

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_names(kind: type[Record] = Record) -> Complete:
    """For ``shell_complete=``: the registered names of a kind that begin as what was typed, with their summaries."""

    def complete(_: click.Context, __: click.Parameter, typed: str) -> list[CompletionItem]:
        from .registry import registry

        found = registry()
        names = [name for name in found.names(kind) if name.startswith(typed)]
        return [CompletionItem(name, help=found.records[name].summary) for name in names]

    return complete


complete_upsamplers = complete_names(UpsamplerRecord)
complete_backbones = complete_names(BackboneRecord)
complete_restorers = complete_names(RestorerRecord)

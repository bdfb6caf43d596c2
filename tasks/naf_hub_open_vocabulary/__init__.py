"""Open vocabulary: CLIP names what features of any backbone outline; nothing is trained (ProxyCLIP)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from naf_hub import TaskRecord, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    import click


@hookimpl
def register_tasks(register: Callable[[TaskRecord], None]) -> None:
    register(
        TaskRecord(
            name="open_vocabulary",
            summary="Segmentation into classes that are named in words: CLIP behind upsampled features, no training.",
            target="naf_hub_open_vocabulary.open_vocabulary:OpenVocabulary",
            paper="https://arxiv.org/abs/2408.04883",
        )
    )


@hookimpl
def register_commands(cli: click.Group) -> None:
    from .open_vocabulary_command import open_vocabulary
    from .segment_command import segment

    cli.commands["eval"].add_command(open_vocabulary)  # pyright: ignore[reportAttributeAccessIssue]
    cli.add_command(segment)

"""Probes of upsampled features: a linear head on frozen features, scored on dense labels."""

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
            name="segmentation",
            summary="Linear-probe semantic segmentation: a 1x1 convolution on frozen upsampled features.",
            target="naf_hub_probing.segmentation:Segmentation",
            paper="https://arxiv.org/abs/2511.18452",
        )
    )


@hookimpl
def register_commands(cli: click.Group) -> None:
    from .command import segmentation

    group = cli.commands["eval"]
    group.add_command(segmentation)  # pyright: ignore[reportAttributeAccessIssue]

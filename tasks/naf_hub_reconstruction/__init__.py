"""Feature reconstruction: trains an upsampler to rebuild the features of a larger image, and scores it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from naf_hub.hookspecs import hookimpl
from naf_hub.records import TaskRecord

if TYPE_CHECKING:
    import click


@hookimpl
def register_tasks(register: Callable[[TaskRecord], None]) -> None:
    register(
        TaskRecord(
            name="reconstruction",
            summary="Trains and scores upsamplers: features of a smaller image against the image's own.",
            target="naf_hub_reconstruction.task:Reconstruction",
            paper="https://arxiv.org/abs/2511.18452",
        )
    )


@hookimpl
def register_commands(cli: click.Group) -> None:
    from .commands import evaluate, train

    cli.commands["train"].add_command(train)  # pyright: ignore[reportAttributeAccessIssue]
    cli.commands["eval"].add_command(evaluate)  # pyright: ignore[reportAttributeAccessIssue]

"""Denoising: trains restorers to take noise away again, and compares them."""

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
            name="denoising",
            summary="Trains and scores restorers: images with Gaussian or salt-and-pepper noise against clean ones.",
            target="naf_hub_restoration.task:Denoising",
            paper="https://arxiv.org/abs/2511.18452",
        )
    )


@hookimpl
def register_commands(cli: click.Group) -> None:
    from .denoising_commands import evaluate, train

    cli.commands["train"].add_command(train)  # pyright: ignore[reportAttributeAccessIssue]
    cli.commands["eval"].add_command(evaluate)  # pyright: ignore[reportAttributeAccessIssue]

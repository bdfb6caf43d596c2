"""Probes of upsampled features: a linear head on frozen features, scored on dense labels or depths."""

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
    register(
        TaskRecord(
            name="depth",
            summary="Linear-probe monocular depth: metres from a 1x1 convolution on frozen upsampled features.",
            target="naf_hub_probing.depth:Depth",
            paper="https://arxiv.org/abs/2511.18452",
        )
    )
    register(
        TaskRecord(
            name="boundaries",
            summary="Edges of upsampled features against boundaries that people drew; no classes, no training.",
            target="naf_hub_probing.boundaries:Boundaries",
            paper="https://doi.org/10.1109/TPAMI.2010.161",
        )
    )


@hookimpl
def register_commands(cli: click.Group) -> None:
    from .boundary_command import boundaries
    from .command import segmentation
    from .depth_command import depth

    group = cli.commands["eval"]
    for command in (segmentation, depth, boundaries):
        group.add_command(command)  # pyright: ignore[reportAttributeAccessIssue]

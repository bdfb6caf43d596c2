"""Correspondence: the same thing found in another picture, by nothing but the likeness of upsampled features."""

from __future__ import annotations

from typing import TYPE_CHECKING

from naf_hub import TaskRecord, hookimpl

if TYPE_CHECKING:
    from collections.abc import Callable

    import click

SPAIR = "https://arxiv.org/abs/1908.10543"
PROBE3D = "https://arxiv.org/abs/2404.08636"


@hookimpl
def register_tasks(register: Callable[[TaskRecord], None]) -> None:
    register(
        TaskRecord(
            name="correspondence",
            summary="Keypoints of SPair-71k found in another photo of the same class, by nearest features.",
            target="naf_hub_correspondence.semantic:SemanticCorrespondence",
            paper=SPAIR,
        )
    )
    register(
        TaskRecord(
            name="geometric",
            summary="Points of NAVI's objects found again from another side, by nearest features; errors in space.",
            target="naf_hub_correspondence.geometric:GeometricCorrespondence",
            paper=PROBE3D,
        )
    )
    register(
        TaskRecord(
            name="homography",
            summary="Points of any photos found again after a known homography, by nearest features; no labels.",
            target="naf_hub_correspondence.homography:HomographyCorrespondence",
            paper=PROBE3D,
        )
    )


@hookimpl
def register_commands(cli: click.Group) -> None:
    from .geometric_command import geometric
    from .homography_command import homography
    from .semantic_command import correspondence

    group = cli.commands["eval"]
    for command in (correspondence, geometric, homography):
        group.add_command(command)  # pyright: ignore[reportAttributeAccessIssue]

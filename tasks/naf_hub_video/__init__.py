"""Video object segmentation: masks carried through videos by the likeness of upsampled features."""

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
            name="video_segmentation",
            summary="Masks of a first frame carried through a video by the likeness of features; no training.",
            target="naf_hub_video.video_segmentation:VideoSegmentation",
            paper="https://arxiv.org/abs/2511.18452",
        )
    )


@hookimpl
def register_commands(cli: click.Group) -> None:
    from .video_command import video

    cli.commands["eval"].add_command(video)  # pyright: ignore[reportAttributeAccessIssue]

"""Whether a run can go on from a checkpoint: what it must share with the run that made it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .course import Course
from .facts import changed_files, compare_facts
from .settings import ConfigError, RunSettings, difference

PROCESSES = "number of processes"


def compare(
    manifest: Mapping[str, Any],
    course: Course,
    processes: int,
    *,
    folder: Path,
    extend: bool,
    allow_changed_images: bool,
) -> tuple[dict[str, int] | None, list[str]]:
    """Compare a checkpoint with the course that is to go on from it.

    Args:
        manifest: of the checkpoint.
        course: prepared.
        processes: how many there are now.
        folder: of the run, for messages.
        extend: whether there may be more steps than before.
        allow_changed_images: whether files may have changed under their names.

    Returns:
        The extension (``step`` it begins after, ``steps_before`` and ``steps``), if there is one, and a line for each
        list of files that changed.

    Raises:
        ConfigError: something differs that must not.
    """
    settings, step, before = course.settings, manifest["step"], manifest["config"]["steps"]
    extends = extend and settings.steps > before
    free = settings.free_to_change | ({"steps"} if extends else frozenset[str]())
    changes = difference({**_defaults(settings), **manifest["config"]}, settings.to_dict(), free)
    facts = {PROCESSES: manifest["processes"], **manifest["facts"]}
    changes += compare_facts(facts, {PROCESSES: processes, **course.facts})
    if changes:
        message = f"{folder} was started with other settings, so it cannot go on: {'; '.join(changes)}"
        if len(changes) == 1 and settings.steps > before and "steps" not in free:
            message += (
                f"; to take more steps, --extend goes on from step {step} with the rates of a run of {settings.steps} "
                f"steps, and init={folder / 'weights'} starts a new run in another folder from its weights"
            )
        raise ConfigError(message)
    replaced = changed_files(manifest["facts"], course.facts)
    if replaced and not allow_changed_images:
        raise ConfigError(
            f"{folder} was started with other pictures: {'; '.join(replaced)}; put the old ones back, start anew in "
            "another folder, or go on with --allow-changed-images"
        )
    if not extends:
        return None, replaced
    return {"step": step, "steps_before": before, "steps": settings.steps}, replaced


def _defaults(settings: RunSettings) -> dict[str, Any]:
    """What a run computed by before settings had these names."""
    fields = dataclasses.fields(settings)
    found = {field.name: field.default for field in fields if field.default is not dataclasses.MISSING}
    return {key: list(value) if isinstance(value, tuple) else value for key, value in found.items()}

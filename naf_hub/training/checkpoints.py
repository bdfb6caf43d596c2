"""Checkpoints that are whole or absent: written beside, synced, renamed; older ones go only afterwards."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..atomic import atomic_folder
from ..errors import NafHubError
from ..weights.checksums import sha256_of

log = logging.getLogger("naf_hub")

MODEL, STATE, MANIFEST = "model.safetensors", "training.pt", "checkpoint.json"
FILES = (MODEL, STATE, MANIFEST)
NAME = re.compile(r"step-\d{8,}")
HALF = re.compile(r"\.(step-\d{8,})\..+")
# What safetensors writes to before it renames, since 0.8.
UNFINISHED = re.compile(r"\.tmp\w{6}")


class CheckpointError(NafHubError, RuntimeError):
    """A checkpoint cannot be written, or none of those there can be read."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose files have been found to be what was written.

    Attributes:
        folder: holds ``model.safetensors``, ``training.pt`` and ``checkpoint.json``.
        step: finished steps.
        manifest: the content of ``checkpoint.json``.
    """

    folder: Path
    step: int
    manifest: dict[str, Any]

    def model(self) -> dict[str, Tensor]:
        """The model's state dict, on the CPU."""
        return load_file(self.folder / MODEL)

    def training(self) -> dict[str, Any]:
        """State of the optimizer and what else :func:`save_checkpoint` was given; read without unpickling code."""
        return torch.load(self.folder / STATE, map_location="cpu", weights_only=True)


def save_checkpoint(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    training: Mapping[str, Any],
    facts: Mapping[str, Any],
    keep: int,
) -> Path:
    """Write ``folder/step-NNNNNNNN`` atomically, then prune to the newest ``keep``.

    Args:
        folder: the run's folder of checkpoints.
        step: finished steps.
        model: state dict.
        training: tensors and plain data that ``torch.load(weights_only=True)`` reads back.
        facts: what the manifest should say besides; plain JSON data.
        keep: how many checkpoints stay, this one included.

    Raises:
        CheckpointError: it could not be written (a full disk, say); the older ones are untouched.
    """
    target = folder / f"step-{step:08d}"
    try:
        with atomic_folder(target, keep_others=True) as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in model.items()}, temporary / MODEL)
            torch.save(dict(training), temporary / STATE)
            digests = {name: sha256_of(temporary / name) for name in (MODEL, STATE)}
            manifest = {"step": step, "sha256": digests, **facts}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except Exception as error:  # OSError, SafetensorError, or RuntimeError from torch.save, by who writes
        raise CheckpointError(f"cannot write checkpoint {target}: {error}; {_rest(folder)}") from error
    for old in _folders(folder)[keep:]:
        _remove(old)
    return target


def _rest(folder: Path) -> str:
    try:
        older = newest(folder)
    except CheckpointError:
        return "none of the older ones can be read"
    return f"the newest is still {older.folder}" if older else "there is no older one"


def newest(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint; damaged ones are passed over with a warning. ``None`` where there are none.

    Raises:
        CheckpointError: all of them are damaged.
    """
    while paths := _folders(folder):
        problems: list[str] = []
        for path in paths:
            try:
                found = _read(path)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                log.warning("%s; trying an older one", problem)
            return found
        if paths == _folders(folder):  # else another process has written or removed some meanwhile
            raise CheckpointError(
                f"no checkpoint can be read: {'; '.join(problems)}; put a copy of one back, or start anew in "
                "another folder"
            )
    return None


def _read(path: Path) -> Checkpoint:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        damaged = [name for name, digest in manifest["sha256"].items() if sha256_of(path / name) != digest]
        step = int(manifest["step"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is no valid checkpoint ({error})") from error
    if damaged:
        raise CheckpointError(f"{path} is damaged ({', '.join(damaged)})")
    return Checkpoint(path, step, manifest)


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written or half-removed; what is not a run's stays."""
    for leftover in folder.glob(".step-*"):
        if not (match := HALF.fullmatch(leftover.name)):
            continue
        old = leftover / "old"  # a replaced checkpoint, caught between two renames
        if old.is_dir():
            if not (folder / match[1]).exists():
                old.rename(folder / match[1])
            else:
                _empty(old)
        _empty(leftover)
        if leftover.exists() and not (folder / match[1]).exists():
            leftover.rename(folder / match[1])


def forget(folder: Path) -> None:
    """Remove all checkpoints, and the folder where nothing else is in it."""
    for path in _folders(folder):
        _remove(path)
    with contextlib.suppress(OSError):
        folder.rmdir()


def _remove(path: Path) -> None:
    """Remove a checkpoint, leaving other files in its folder; one that is half-removed counts for none."""
    hidden = path.with_name(f".{path.name}.removed")
    with contextlib.suppress(OSError):
        path.rename(hidden)
        _empty(hidden)
        if hidden.exists():
            hidden.rename(path)


def _empty(path: Path) -> None:
    """Remove the files of a checkpoint, and their folder where nothing else is in it."""
    with contextlib.suppress(OSError):
        unfinished = [entry.name for entry in path.iterdir() if UNFINISHED.fullmatch(entry.name)]
        for name in (*FILES, *unfinished):
            (path / name).unlink(missing_ok=True)
        path.rmdir()


def _folders(folder: Path) -> list[Path]:
    """Of checkpoints, whole or damaged, the newest first."""
    found = [
        p for p in folder.glob("step-*") if NAME.fullmatch(p.name) and any((p / f).exists() for f in FILES)
    ]
    return sorted(found, key=lambda path: int(path.name[5:]), reverse=True)

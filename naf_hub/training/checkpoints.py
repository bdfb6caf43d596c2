"""Checkpoints that are whole or absent: written beside, synced, renamed; older ones go only afterwards."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
import shutil
from collections.abc import Iterator, Mapping
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
NAME = re.compile(r"step-(\d{8})")


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
        with atomic_folder(target) as temporary:
            save_file({k: v.detach().cpu().contiguous() for k, v in model.items()}, temporary / MODEL)
            torch.save(dict(training), temporary / STATE)
            digests = {name: sha256_of(temporary / name) for name in (MODEL, STATE)}
            manifest = {"step": step, "sha256": digests, **facts}
            (temporary / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    except Exception as error:  # OSError, SafetensorError, or RuntimeError from torch.save, by who writes
        older = newest(folder)
        rest = f"the newest is still {older.folder}" if older else "there is no older one"
        raise CheckpointError(f"cannot write checkpoint {target}: {error}; {rest}") from error
    for old in _folders(folder)[keep:]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def newest(folder: Path) -> Checkpoint | None:
    """The newest valid checkpoint; damaged ones are passed over with a warning."""
    return next(_valid(folder), None)


def clean(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for leftover in folder.glob(".step-*"):
        for moved in leftover.glob("old"):  # a replaced checkpoint, caught between two renames
            target = folder / leftover.name[1:].split(".")[0]
            if not target.exists():
                moved.rename(target)
        shutil.rmtree(leftover, ignore_errors=True)


def _folders(folder: Path) -> list[Path]:
    return sorted((p for p in folder.glob("step-*") if NAME.fullmatch(p.name)), reverse=True)


def _valid(folder: Path) -> Iterator[Checkpoint]:
    for path in _folders(folder):
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            damaged = [
                name for name, digest in manifest["sha256"].items() if sha256_of(path / name) != digest
            ]
            step = int(manifest["step"])
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s is no valid checkpoint (%s); trying an older one", path, error)
            continue
        if damaged:
            log.warning("%s is damaged (%s); trying an older one", path, ", ".join(damaged))
            continue
        yield Checkpoint(path, step, manifest)

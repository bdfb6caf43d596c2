"""Whether a file is the one that was recorded."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import WeightsError
from ..records import Weights
from .progress import progress

CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file, progress(path.stat().st_size, f"checking {path.name}") as done:
        while block := file.read(CHUNK):
            digest.update(block)
            done(len(block))
    return digest.hexdigest()


def verify(path: Path, weights: Weights, what: str) -> None:
    """Compare a file with the recorded size and sha256.

    Raises:
        WeightsError: they differ.
    """
    size = path.stat().st_size
    if weights.size is not None and size != weights.size:
        raise WeightsError(
            f"{what}: {path} has {size} bytes, expected {weights.size}: truncated or replaced; "
            "delete it (or reinstall) and load again"
        )
    if weights.sha256 is not None and (found := sha256_of(path)) != weights.sha256:
        raise WeightsError(
            f"{what}: {path} has sha256 {found[:16]}..., expected {weights.sha256[:16]}...: damaged or "
            "replaced; delete it (or reinstall) and load again"
        )

"""Whether a file is the one that was recorded."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from ..errors import WeightsError
from .progress import progress

CHUNK = 1 << 20


class Mismatch(WeightsError):
    """A file has another size or checksum than is recorded of it."""


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file, progress(path.stat().st_size, f"checking {path.name}") as done:
        while block := file.read(CHUNK):
            digest.update(block)
            done(len(block))
    return digest.hexdigest()


class LocalFile(os.PathLike[str]):
    """A file on this machine that carries what was found out about it: it is hashed at most once, however many
    records it is compared with.

    Args:
        path: where it lies.
        name: what its publisher calls it, within its repository; default the last part of ``path``.
        commit: of the Hub repository it was taken from.
        sha256: hex digest, where it is known to be that of the content.
        beside: files that belong to it: the shards of an index, ``config.json``.
    """

    def __init__(
        self,
        path: Path,
        *,
        name: str | None = None,
        commit: str | None = None,
        sha256: str | None = None,
        beside: Sequence[LocalFile] = (),
    ) -> None:
        self.path = path
        self.name = name or path.name
        self.commit = commit
        self.beside = list(beside)
        self._sha256 = sha256

    def __fspath__(self) -> str:
        return str(self.path)

    def __str__(self) -> str:
        return str(self.path)

    @property
    def size(self) -> int:
        """Bytes."""
        return self.path.stat().st_size

    @property
    def sha256(self) -> str:
        """Hex digest; the file is read for it the first time only."""
        if self._sha256 is None:
            self._sha256 = sha256_of(self.path)
        return self._sha256

    def verify(self, size: int | None, sha256: str | None, what: str) -> None:
        """Compare with a recorded size and sha256; ``None`` is not compared.

        Raises:
            Mismatch: they differ.
        """
        if size is not None and self.size != size:
            raise Mismatch(
                f"{what}: {self.path} has {self.size} bytes, expected {size}: truncated or replaced; "
                "delete it (or reinstall) and load again"
            )
        if sha256 is not None and self.sha256 != sha256:
            raise Mismatch(
                f"{what}: {self.path} has sha256 {self.sha256[:16]}..., expected {sha256[:16]}...: damaged or "
                "replaced; delete it (or reinstall) and load again"
            )

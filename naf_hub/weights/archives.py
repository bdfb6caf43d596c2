"""Weights published in several files: an archive cut in pieces, or a part of the model in a file of its own."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

from ..errors import WeightsError
from ..records import Weights
from .checksums import LocalFile
from .pickles import read_pickle

if TYPE_CHECKING:
    from torch import Tensor


class Joined:
    """Reads files one after the other as if they were one, without copying them together."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.waiting = list(paths)
        self.current: IO[bytes] | None = None

    def read(self, size: int = -1) -> bytes:
        while self.current is not None or self.waiting:
            if self.current is None:
                self.current = self.waiting.pop(0).open("rb")
            if block := self.current.read(size):
                return block
            self.close()
        return b""

    def close(self) -> None:
        if self.current is not None:
            self.current.close()
            self.current = None


@contextlib.contextmanager
def unpacked(pieces: Sequence[Path], what: str) -> Iterator[Path]:
    """The first file in the tar archive that ``pieces`` make up, in their order; it is deleted afterwards.

    Raises:
        WeightsError: no such archive, or damaged, or without a file.
    """
    whole = Joined(pieces)
    # Where a file cannot be deleted while tensors are views of it, it stays: only its space is lost.
    scratch = tempfile.TemporaryDirectory(
        prefix="unpacked-", dir=pieces[0].parent, ignore_cleanup_errors=True
    )
    with scratch as folder:
        # A name of our own: those in an archive may lead anywhere.
        target = Path(folder, "weights.pth")
        try:
            with tarfile.open(fileobj=cast("IO[bytes]", whole), mode="r|*") as archive:
                member = next((entry for entry in archive if entry.isfile()), None)
                content = archive.extractfile(member) if member is not None else None
                if member is None or content is None:
                    raise WeightsError(
                        f"{what}: the archive of {', '.join(p.name for p in pieces)} holds no file"
                    )
                with content, target.open("wb") as file:
                    shutil.copyfileobj(content, file, 1 << 20)
                if (
                    target.stat().st_size != member.size
                ):  # tarfile does not notice an end that comes too early
                    raise EOFError("the archive is cut short")
        except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
            raise WeightsError(
                f"{what}: cannot unpack {', '.join(str(p) for p in pieces)} ({error}): delete them and load again"
            ) from error
        finally:
            whole.close()
        yield target


def published_files(weights: Weights) -> list[Weights]:
    """Each file of a set, as a set of its own that only says where it is and what is recorded of it."""
    if weights.parts:
        files = [Weights(weights.source + part) for part in weights.parts]
    else:
        files = [dataclasses.replace(weights, also={})]
    return files + [Weights(source) for source in weights.also.values()]


def assemble(
    weights: Weights, files: Sequence[LocalFile], what: str, keys: Sequence[str] = ()
) -> dict[str, Tensor]:
    """The tensors of a set published as pickles.

    Args:
        weights: the set.
        files: its :func:`published_files`, fetched.
        what: the weights, in words, for messages.
        keys: where in the files the state dict lies (:attr:`naf_hub.records.Record.state_dict_keys`).

    Raises:
        WeightsError: a file cannot be read, or two of them hold the same key.
    """
    own = len(files) - len(weights.also)
    if weights.parts:
        with unpacked([file.path for file in files[:own]], what) as path:
            state = read_pickle(path, keys)
    else:
        state = read_pickle(files[0].path, keys)
    for (prefix, source), file in zip(weights.also.items(), files[own:], strict=True):
        for key, value in read_pickle(file.path, keys).items():
            if prefix + key in state:
                raise WeightsError(f"{what}: {prefix + key} is in both {weights.source} and {source}")
            state[prefix + key] = value
    return state

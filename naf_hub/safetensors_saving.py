"""Tensors saved as a safetensors file, whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from .atomic import atomic_file

if TYPE_CHECKING:
    from torch import Tensor


def save_tensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file; of what a killed process leaves of it the next write to the same place is rid.

    Args:
        path: of the file.
        tensors: by name; contiguous, on the CPU, none sharing memory with another.
        metadata: texts by key.

    Raises:
        OSError: it cannot be written (a full disk, say).
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    # safetensors writes to another name beside the one it is given.
    with atomic_file(path, apart=True) as temporary:
        try:
            save_file(dict(tensors), temporary, None if metadata is None else dict(metadata))
        except SafetensorError as error:
            raise OSError(f"cannot write {path}: {error}") from error

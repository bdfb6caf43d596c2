"""State dicts in pickled checkpoints, read so that no code in them can run."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = frozenset({".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar"})
NESTED = ("state_dict", "model_state_dict", "model", "teacher", "net", "module")
REFUSED = re.compile(r"(?:GLOBAL|class|type) ([\w.]+)")


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The state dict in a ``torch.save`` file, read with ``weights_only=True``: no code in it can run.

    Checkpoints may hold more: of the mappings in the file, itself and those under the usual keys, the one with the
    most tensors is taken, what else is in it is left out, and a ``module.`` prefix is dropped. The tensors may be
    views of the file, which must not change while they are in use.

    Raises:
        WeightsError: not such a file, holds objects of classes that could run code, or holds no state dict.
    """
    if not path.is_file():
        raise WeightsError(f"no such file: {path}")
    try:
        data = _load(path)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, KeyError, ... by kind of damage
        text = " ".join(str(error).split())
        named = REFUSED.search(text)
        why = (
            f"it holds {named[1]}, and an object of a class of its own could run code"
            if named and "nsupported" in text
            else f"damaged, or no torch.save file ({text[:120] or type(error).__name__})"
        )
        raise WeightsError(f"{path}: refused, no tensors read from this pickle: {why}") from error
    state = max(_mappings(data), key=len, default={})
    if not state:
        raise WeightsError(f"{path}: holds no state dict (a mapping of names to tensors)")
    prefixed = all(k.startswith("module.") for k in state)
    return {k.removeprefix("module.") if prefixed else k: v.contiguous() for k, v in state.items()}


def _load(path: Path) -> Any:
    import torch

    # Mapped, a checkpoint of gigabytes costs no memory; files from before PyTorch 1.6 cannot be.
    mapped = zipfile.is_zipfile(path)
    with torch.serialization.safe_globals(_inert()):
        return torch.load(path, map_location="cpu", weights_only=True, mmap=mapped)


def _inert() -> list[Any]:
    """What training scripts store beside tensors and what only holds data: settings, and NumPy scalars."""
    import numpy

    scalar, _ = numpy.float64(0).__reduce__()
    return [argparse.Namespace, scalar, numpy.dtype, *{type(numpy.dtype(code)) for code in "?bBhHiIlLqQefd"}]


def _mappings(data: Any, depth: int = 2) -> Iterator[dict[str, Tensor]]:
    import torch

    if not isinstance(data, dict):
        return
    yield {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}
    for key in NESTED if depth else ():
        yield from _mappings(data.get(key), depth - 1)

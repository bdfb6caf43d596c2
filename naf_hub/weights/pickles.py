"""State dicts in pickled checkpoints, read so that no code in them can run."""

from __future__ import annotations

import argparse
import re
import shlex
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = frozenset({".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar"})
REFUSED = re.compile(r"(?:GLOBAL|class|type) ([\w.]+)")


def read_pickle(path: Path, keys: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state dict in a ``torch.save`` file, read with ``weights_only=True``: no code in it can run.

    Args:
        path: the file.
        keys: the keys, outermost first, under which the file hides the mapping of names to tensors. A file
            without the first of them is taken to be that mapping itself; so it is without ``keys``.

    Returns:
        The tensors of that mapping. What else is in it is left out, and a ``module.`` prefix of all is dropped. They
        may be views of the file, which must not change while they are in use.

    Raises:
        WeightsError: not such a file, holds objects of classes that could run code, or holds no state dict there.
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
    inner = _under(data, keys, path)
    state = _tensors(inner)
    most, hidden = max(((len(found), place) for place, found in _nested(data)), default=(0, ()))
    # Whoever takes a stray tensor for the weights would be told that all the others are missing.
    if inner is data and most > len(state):
        options = " ".join(f"--key {shlex.quote(key)}" for key in hidden)
        raise WeightsError(
            f"{path}: its state dict lies deeper; name the way to it: naf-hub convert {options} ..., or "
            f"state_dict_keys={tuple(hidden)!r} in the record"
        )
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


def _under(data: Any, keys: Sequence[str], path: Path) -> Any:
    """What lies in ``data`` under ``keys``; ``data`` itself where it lacks the first of them."""
    if not keys or not isinstance(data, dict) or keys[0] not in data:
        return data
    for place, key in enumerate(keys):
        if not isinstance(data, dict) or key not in data:
            raise WeightsError(f"{path}: there is no {key!r} under {' -> '.join(map(repr, keys[:place]))}")
        data = data[key]
    return data


def _tensors(data: Any) -> dict[str, Tensor]:
    import torch

    if not isinstance(data, dict):
        return {}
    return {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}


def _nested(data: Any, depth: int = 2) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """(keys that lead there, tensors) of the mappings within ``data``."""
    if not isinstance(data, dict) or not depth:
        return
    for key, value in data.items():
        if isinstance(key, str):
            yield (key,), _tensors(value)
            for place, found in _nested(value, depth - 1):
                yield (key, *place), found

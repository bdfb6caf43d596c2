"""State dicts in pickled checkpoints, read so that no code in them can run."""

from __future__ import annotations

import argparse
import re
import shlex
import zipfile
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError

if TYPE_CHECKING:
    from torch import Tensor

PICKLES = frozenset({".pth", ".pt", ".bin", ".ckpt", ".pkl", ".tar"})
# Settings of OmegaConf, as empty classes of the same names: their content is not needed, nor is OmegaConf.
OMEGACONF = [
    type(name, (), {"__module__": module})
    for module, name in (
        ("omegaconf.dictconfig", "DictConfig"),
        ("omegaconf.listconfig", "ListConfig"),
        ("omegaconf.base", "ContainerMetadata"),
        ("omegaconf.base", "Metadata"),
        ("omegaconf.nodes", "AnyNode"),
        ("typing", "Any"),
    )
]
REFUSED = re.compile(r"(?:GLOBAL|class|type) ([\w.]+)")


def read_pickle(path: Path, keys: Sequence[str] = ()) -> dict[str, Tensor]:
    """The state dict in a published ``torch.save`` file, read with ``weights_only=True``: no code in it can run.

    Args:
        path: the file.
        keys: the keys, outermost first, under which the file hides the mapping of names to tensors. A file
            without the first of them is searched as a whole; so it is without ``keys``.

    Returns:
        The tensors of that mapping, or of the only one within it that holds any. What else is in it is left out, and a
        ``module.`` prefix of all is dropped. They may be views of the file, which must not change meanwhile.

    Raises:
        WeightsError: not such a file, holds objects of classes that could run code, or holds no state dict there.
    """
    found = state_dicts(under(open_pickle(path), keys, path))
    if not found:
        raise WeightsError(f"{path}: holds no state dict (a mapping of names to tensors)")
    place, state = max(found, key=lambda each: len(each[1]))
    # Whoever takes a stray tensor for the weights would be told that all the others are missing.
    if place and len(found) > 1:
        ways = ", ".join(repr((*keys, *place)) for place, _ in found if place)
        raise WeightsError(
            f"{path}: which of its state dicts is meant? Let the record say state_dict_keys= {ways}"
        )
    prefixed = all(k.startswith("module.") for k in state)
    return {k.removeprefix("module.") if prefixed else k: v.contiguous() for k, v in state.items()}


def open_pickle(path: Path) -> Any:
    """What a ``torch.save`` file holds, read so that no code in it can run.

    Raises:
        WeightsError: not such a file, or it holds objects of classes that could run code.
    """
    if not path.is_file():
        raise WeightsError(f"no such file: {path}")
    try:
        return _load(path)
    except Exception as error:  # UnpicklingError, RuntimeError, EOFError, KeyError, ... by kind of damage
        text = " ".join(str(error).split())
        named = REFUSED.search(text)
        # What torch says of other files is a page on its own options, which are not for whoever converts.
        why = (
            f"it holds {named[1]}, and an object of a class of its own could run code"
            if named and "nsupported" in text
            else "it is no file of torch.save, or a damaged one"
        )
        raise WeightsError(f"{path}: refused, no tensors read from this pickle: {why}") from error


def conversion(file: Path, name: str | None = None) -> str:
    """The command that converts a pickle to a folder that is not there yet, in the current one.

    Args:
        file: the pickle.
        name: what it holds weights of, if that is known.
    """
    out = Path(file.stem)
    while out.exists():
        out = out.with_name(f"{out.name}-weights")
    options = [] if name is None else ["--name", name]
    return shlex.join(["naf-hub", "convert", str(file), "-o", str(out), *options])


def under(data: Any, keys: Sequence[str], path: Path, required: bool = False) -> Any:
    """What lies in ``data`` under ``keys``, each the key of a mapping or what the names in it begin with.

    Args:
        data: what the file holds.
        keys: outermost first.
        path: the file, for messages.
        required: whether the first of them must be there; where it is not, ``data`` is given as it is.

    Raises:
        WeightsError: there is no such key; says which there are.
    """
    inner = data
    for place, key in enumerate(keys):
        names = [name for name in inner if isinstance(name, str)] if isinstance(inner, dict) else []
        if key in names:
            inner = inner[key]
        elif within := [name for name in names if name.startswith(f"{key}.")]:
            inner = {name.removeprefix(f"{key}."): inner[name] for name in within}
        elif place or required:
            there = f" under {' -> '.join(map(repr, keys[:place]))}" if place else ""
            have = list(dict.fromkeys(name.partition(".")[0] for name in names))
            shown = f"{', '.join(have[:8])}{', ...' if len(have) > 8 else ''}" or "nothing with a name"
            raise WeightsError(f"{path}: there is no {key!r}{there}; there is: {shown}")
        else:
            return data
    return inner


def state_dicts(data: Any, depth: int = 2) -> list[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """(keys that lead there, tensors) of ``data`` and of the mappings within it that hold tensors."""
    if not isinstance(data, dict):
        return []
    own = _tensors(data)
    found: list[tuple[tuple[str, ...], dict[str, Tensor]]] = [((), own)] if own else []
    for key, value in data.items():
        if isinstance(key, str) and depth:
            found += [((key, *place), state) for place, state in state_dicts(value, depth - 1)]
    return found


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
    numbers = [scalar, numpy.dtype, *{type(numpy.dtype(code)) for code in "?bBhHiIlLqQefd"}]
    return [argparse.Namespace, *numbers, defaultdict, dict, list, int, *OMEGACONF]


def _tensors(data: dict[Any, Any]) -> dict[str, Tensor]:
    import torch

    return {k: v for k, v in data.items() if isinstance(k, str) and isinstance(v, torch.Tensor)}

"""Safetensors files, alone or as the shards of an index: which tensors they hold, and single ones of those."""

from __future__ import annotations

import re
import reprlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError
from .json_objects import read_object

if TYPE_CHECKING:
    import torch

    from ..interfaces import Shape

# How the text file starts that stands for a large file where git was used without its LFS extension.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# What an index may name: plain names that are files of their own on every system.
SHARD = re.compile(r"[\w-][\w.-]*\.safetensors", re.ASCII)


def shard_names(index: Path) -> dict[str, str]:
    """File of every tensor that an index lists, by the name of the tensor.

    Raises:
        WeightsError: no index, or it names what is no safetensors file beside it.
    """
    listed = read_object(index).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise WeightsError(f"{index}: not a safetensors index (weight_map lists no tensors)")
    for name in listed.values():
        if not isinstance(name, str) or not SHARD.fullmatch(name) or len(name) > 255:
            raise WeightsError(
                f"{index}: names {reprlib.repr(name)}, which is no safetensors file in its folder"
            )
    return listed


def shards(path: Path) -> list[Path]:
    """The safetensors files behind ``path``: itself, or those an index names.

    Raises:
        WeightsError: the index is unreadable, or names a file that is missing or lies elsewhere.
    """
    if not path.name.endswith(".index.json"):
        return [path]
    names = sorted(set(shard_names(path).values()))
    for name in names:
        if not path.with_name(name).is_file():
            raise WeightsError(f"{path}: shard {name} is missing; fetch the weights again")
    return [path.with_name(name) for name in names]


def not_safetensors(file: Path, error: object) -> WeightsError:
    """What to tell of a file that should hold tensors and does not."""
    try:
        with file.open("rb") as opened:
            pointer = opened.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        pointer = False
    if pointer:
        return WeightsError(f"{file}: a Git LFS pointer in place of the weights; fetch them: git lfs pull")
    return WeightsError(f"{file}: not a valid safetensors file ({error}); fetch or convert it again")


def headers(path: Path) -> dict[str, tuple[Path, Shape]]:
    """(file, shape) of every tensor in the files behind ``path``, by name; no values are read.

    Raises:
        WeightsError: a damaged file, one tensor in two files, or an index that puts one where it is not.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[Path, Shape]] = {}
    for file in shards(path):
        try:
            with safe_open(file, "pt") as opened:
                held = {name: (file, tuple(opened.get_slice(name).get_shape())) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError, ValueError) as error:
            raise not_safetensors(file, error) from error
        if twice := found.keys() & held.keys():
            raise WeightsError(
                f"{path}: {min(twice)!r} is in two files, {found[min(twice)][0].name} and {file.name}"
            )
        found |= held
    if path.name.endswith(".index.json"):
        for name, shard in shard_names(path).items():
            if name not in found or found[name][0].name != shard:
                raise WeightsError(f"{path}: {reprlib.repr(name)} is not in {shard}; fetch the weights again")
    return found


def read(file: Path, name: str, dtype: torch.dtype, device: Any) -> torch.Tensor:
    """A copy of one tensor, floating-point values cast to ``dtype``.

    Raises:
        ValueError: it contains NaN or infinite values.
    """
    import torch
    from safetensors import safe_open

    # Opened anew each time: pages of a mapping that stays open would count, and pile up, as ours.
    with safe_open(file, "pt") as opened:
        mapped = opened.get_tensor(name)
        if not mapped.is_floating_point():
            return mapped.to(device, copy=True)
        # A sum is not finite if any value is not; only then is the (large) mask worth its memory.
        if not torch.isfinite(mapped.sum(dtype=torch.float32)) and not torch.isfinite(mapped).all():
            raise ValueError(f"{name} contains NaN or infinite values")
        return mapped.to(device, dtype, copy=True)

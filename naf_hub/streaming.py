"""Maps larger than memory: strips of rows put into a caller's buffer, or into a file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .atomic import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

# Names of the types in .npy and in .safetensors headers.
DTYPES = {"float16": ("<f2", "F16"), "float32": ("<f4", "F32")}


def fill(out: Any, strips: Iterable[Tensor]) -> Any:
    """Put strips into a buffer, one below the other.

    Args:
        out: (B, C, n, W), a tensor on any device or a NumPy array, for example a ``memmap``; of any float dtype.
        strips: of :meth:`naf_hub.Upsampler.stream`, n rows in all.

    Returns:
        ``out``.

    Raises:
        ValueError: ``out`` has another shape than the strips together.
    """
    import torch

    row = 0
    for strip in strips:
        stop = row + strip.shape[2]
        if (*strip.shape[:2], strip.shape[3]) != (*out.shape[:2], out.shape[3]) or stop > out.shape[2]:
            raise ValueError(
                f"out {tuple(out.shape)} does not fit rows {row} to {stop}, {tuple(strip.shape)}"
            )
        if isinstance(out, torch.Tensor):
            out[:, :, row:stop].copy_(strip)
        else:
            out[:, :, row:stop] = strip.cpu().numpy()
        row = stop
    if row != out.shape[2]:
        raise ValueError(f"out {tuple(out.shape)} has more rows than the {row} that came")
    return out


def save_rows(
    path: str | os.PathLike[str],
    strips: Iterable[Tensor],
    shape: tuple[int, int, int, int],
    dtype: str = "float16",
) -> Path:
    """Write strips to a file as they come; nothing but the strip at hand is in memory, and the file appears whole.

    Args:
        path: ``.npy``, or ``.safetensors`` with one tensor, ``features``.
        strips: of :meth:`naf_hub.Upsampler.stream`.
        shape: (B, C, n, W) of the strips together.
        dtype: ``"float16"`` or ``"float32"``.

    Raises:
        ValueError: another suffix or dtype, or strips that are not of that shape together.
    """
    target = Path(path)
    if target.suffix not in (".npy", ".safetensors"):
        raise ValueError(f"{target} must end in .npy or .safetensors")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    with atomic_file(target) as temporary, open(temporary, "r+b") as file:
        _write_header(file, target.suffix, shape, dtype)
        write_strips(file, file.tell(), strips, shape, dtype)
    return target


def write_strips(
    file: BinaryIO, start: int, strips: Iterable[Tensor], shape: tuple[int, int, int, int], dtype: str
) -> None:
    """Write strips from byte ``start`` on, so that the numbers (B, C, n, W) lie in order; the file ends with them.

    Raises:
        ValueError: the strips are not of that shape together.
    """
    import torch

    width = shape[3] * (2 if dtype == "float16" else 4)
    file.truncate(start + shape[0] * shape[1] * shape[2] * width)
    row = 0
    for strip in strips:
        stop = row + strip.shape[2]
        if (*strip.shape[:2], strip.shape[3]) != (*shape[:2], shape[3]) or stop > shape[2]:
            raise ValueError(f"shape {shape} does not fit rows {row} to {stop}, {tuple(strip.shape)}")
        rows = strip.detach().to("cpu", getattr(torch, dtype)).contiguous().flatten(0, 1)
        for number, channel in enumerate(rows):
            file.seek(start + (number * shape[2] + row) * width)
            write_all(file, channel.numpy().tobytes())
        row = stop
    if row != shape[2]:
        raise ValueError(f"shape {shape} has more rows than the {row} that came")


def write_all(file: BinaryIO, data: bytes) -> None:
    """Write all of ``data``; a file without a buffer may take a part at a time."""
    left = memoryview(data)
    while left:
        left = left[file.write(left) :]


def _write_header(file: BinaryIO, suffix: str, shape: tuple[int, int, int, int], dtype: str) -> None:
    numpy_name, safetensors_name = DTYPES[dtype]
    if suffix == ".npy":
        import numpy as np

        header = {"descr": numpy_name, "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_2_0(file, header)
        return
    size = shape[0] * shape[1] * shape[2] * shape[3] * (2 if dtype == "float16" else 4)
    entry = {"dtype": safetensors_name, "shape": list(shape), "data_offsets": [0, size]}
    text = json.dumps({"features": entry}).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)

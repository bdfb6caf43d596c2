"""Maps larger than memory: strips of rows put into a caller's buffer, or into a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from .atomic import atomic_file

if TYPE_CHECKING:
    from torch import Tensor

# Names of the types in .npy and in .safetensors headers.
DTYPES = {"float16": ("<f2", "F16"), "float32": ("<f4", "F32")}
# What rows made again may differ by from those on file, as a share of the largest number: strips are cut elsewhere.
ALIKE = 0.01


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
        del strip  # not beside the next
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
    target = _checked(path, dtype)
    with atomic_file(target) as temporary, open(temporary, "r+b") as file:
        _write_header(file, target.suffix, shape, dtype)
        write_strips(file, file.tell(), strips, shape, dtype)
    return target


def save_rows_resumably(
    path: str | os.PathLike[str],
    stream: Callable[[tuple[int, int]], Iterable[Tensor]],
    shape: tuple[int, int, int, int],
    dtype: str = "float16",
) -> Path:
    """:func:`save_rows` for hours of work: the same call goes on where an interrupted one was.

    Until it is whole the file is called ``NAME.part``, and ``NAME.part.json`` says how many rows are in it. The last of
    them is made again and compared, so that rows of another image, or of other weights, never go into one file.

    Args:
        path: as for :func:`save_rows`.
        stream: gives strips of the rows (start, stop) that it is asked for, such as
            ``lambda rows: model.stream(image, features, size, rows=rows)``.
        shape: (B, C, H, W) of the whole.
        dtype: as for :func:`save_rows`.

    Raises:
        ValueError: as :func:`save_rows`; or the rows that are there are of something else.
        FileExistsError: ``NAME.part`` or ``NAME.part.json`` is there and was not begun by this function.
    """
    target = _checked(path, dtype)
    part = target.with_name(target.name + ".part")
    note = target.with_name(target.name + ".part.json")
    layout = {"shape": list(shape), "dtype": dtype}
    done = _rows_done(part, note, layout)

    def note_down(rows: int) -> None:
        with atomic_file(note) as temporary:
            temporary.write_text(json.dumps(layout | {"rows": rows}), encoding="utf-8")

    if not done:
        note_down(0)
    with open(part, "r+b" if done else "wb") as file:
        _write_header(file, target.suffix, shape, dtype)
        start = file.tell()
        file.truncate(start + shape[0] * shape[1] * shape[2] * _row_bytes(shape, dtype))
        first = max(0, done - 1)
        for strip, row in _placed(stream((first, shape[2])), shape, first):
            if row < done:
                _require_alike(strip[:, :, :1], _read_row(part, start, row, shape, dtype), part)
            _write_strip(file, start, strip, row, shape, dtype)
            file.flush()
            os.fsync(file.fileno())
            note_down(row + strip.shape[2])
            del strip  # not beside the next
    os.replace(part, target)
    note.unlink(missing_ok=True)
    return target


def _checked(path: str | os.PathLike[str], dtype: str) -> Path:
    target = Path(path)
    if target.suffix not in (".npy", ".safetensors"):
        raise ValueError(f"{target} must end in .npy or .safetensors")
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    return target


def _rows_done(part: Path, note: Path, layout: dict[str, Any]) -> int:
    """Rows of ``part`` that are written; 0 where there is none.

    Raises:
        FileExistsError: one of the two is there, and not made by :func:`save_rows_resumably`.
        ValueError: they are of another shape or dtype.
    """
    if not part.exists() and not note.exists():
        return 0
    try:
        found = json.loads(note.read_text(encoding="utf-8"))
        rows = int(found.pop("rows"))
    except FileNotFoundError:
        raise FileExistsError(
            f"{part} is there, and no {note.name} says how far it is: move or delete it"
        ) from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise FileExistsError(f"{note} does not say how far {part.name} is: move or delete it") from None
    if not part.exists():
        return 0  # it became the whole file, or was deleted
    if found != layout:
        raise ValueError(f"{part} has {found}, not {layout}: move or delete it")
    return rows


def _read_row(part: Path, start: int, row: int, shape: tuple[int, int, int, int], dtype: str) -> Any:
    """(B, C, 1, W) of the file."""
    import numpy as np

    there = np.memmap(part, DTYPES[dtype][0], "r", start, shape)
    return np.array(there[:, :, row : row + 1])


def _require_alike(made: Tensor, there: Any, part: Path) -> None:
    import numpy as np

    again = made.detach().float().cpu().numpy()
    largest = max(float(np.abs(again).max()), 1e-6)
    if not np.abs(there.astype("f4") - again).max() <= ALIKE * largest:  # so that NaN is not alike
        raise ValueError(
            f"the rows in {part} are of another image, model or set of features: move or delete it"
        )


def write_strips(
    file: BinaryIO, start: int, strips: Iterable[Tensor], shape: tuple[int, int, int, int], dtype: str
) -> None:
    """Write strips from byte ``start`` on, so that the numbers (B, C, n, W) lie in order; the file ends with them.

    Raises:
        ValueError: the strips are not of that shape together.
    """
    file.truncate(start + shape[0] * shape[1] * shape[2] * _row_bytes(shape, dtype))
    for strip, row in _placed(strips, shape, 0):
        _write_strip(file, start, strip, row, shape, dtype)
        del strip  # not beside the next


def _placed(
    strips: Iterable[Tensor], shape: tuple[int, int, int, int], row: int
) -> Iterator[tuple[Tensor, int]]:
    """Each strip and its first row, the first of all being ``row``.

    Raises:
        ValueError: the strips do not fit the shape, or end before it does.
    """
    for strip in strips:
        stop = row + strip.shape[2]
        if (*strip.shape[:2], strip.shape[3]) != (*shape[:2], shape[3]) or stop > shape[2]:
            raise ValueError(f"shape {shape} does not fit rows {row} to {stop}, {tuple(strip.shape)}")
        yield strip, row
        row = stop
        del strip  # not beside the next
    if row != shape[2]:
        raise ValueError(f"shape {shape} has more rows than the {row} that came")


def _row_bytes(shape: tuple[int, int, int, int], dtype: str) -> int:
    return shape[3] * (2 if dtype == "float16" else 4)


def _write_strip(
    file: BinaryIO, start: int, strip: Tensor, row: int, shape: tuple[int, int, int, int], dtype: str
) -> None:
    """Write a strip, whose first row is ``row``, channel by channel."""
    import torch

    width = _row_bytes(shape, dtype)
    rows = strip.detach().to("cpu", getattr(torch, dtype)).contiguous().flatten(0, 1)
    for number, channel in enumerate(rows):
        file.seek(start + (number * shape[2] + row) * width)
        write_all(file, channel.numpy().tobytes())


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

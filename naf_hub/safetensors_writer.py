"""A ``.safetensors`` file that grows tensor by tensor, for what is larger than memory together."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from .streaming import DTYPES, write_all, write_strips

if TYPE_CHECKING:
    from torch import Tensor

# What an entry of the header takes beside the name of its tensor, at most.
ENTRY = 160


class SafetensorsWriter:
    """Appends tensors to a file; the header is written last, into room that was left for it.

    Args:
        file: empty, open for writing without a buffer, so that nothing is left in one when the disk is full.
        room: bytes of the header at most.
        dtype: ``"float16"`` or ``"float32"``, of every tensor.
    """

    def __init__(self, file: BinaryIO, room: int, dtype: str) -> None:
        self.file, self.dtype = file, dtype
        self.room = room + -room % 8
        self.entries: dict[str, Any] = {}
        self.end = 0
        write_all(file, b" " * (8 + self.room))  # taken now, so that a disk that fills up has it

    def add(self, tensors: Mapping[str, tuple[Iterable[Tensor], tuple[int, int, int, int]]]) -> None:
        """Append tensors, all or none.

        Args:
            tensors: by name, strips of rows and the shape (1, C, n, W) of these together, see
                :meth:`naf_hub.Upsampler.stream`; the tensor is (C, n, W).

        Raises:
            ValueError: strips that are not of that shape.
            OSError: they cannot be written.
        """
        end, entries = self.end, {}
        try:
            for name, (strips, shape) in tensors.items():
                stop = end + bytes_of(shape, self.dtype)
                write_strips(self.file, 8 + self.room + end, strips, shape, self.dtype)
                entries[name] = {
                    "dtype": DTYPES[self.dtype][1],
                    "shape": list(shape[1:]),
                    "data_offsets": [end, stop],
                }
                end = stop
        except BaseException:
            self.file.truncate(8 + self.room + self.end)
            raise
        self.end = end
        self.entries |= entries

    def finish(self, metadata: Mapping[str, str]) -> None:
        """Write the header; nothing can be added any more.

        Raises:
            ValueError: it is longer than the room that was left.
        """
        text = json.dumps({"__metadata__": dict(metadata), **self.entries}, separators=(",", ":")).encode()
        if len(text) > self.room:
            raise ValueError(f"a header of {len(text)} bytes does not fit into {self.room}")
        self.file.seek(0)
        write_all(self.file, self.room.to_bytes(8, "little") + text.ljust(self.room))


def bytes_of(shape: tuple[int, ...], dtype: str) -> int:
    """Bytes of a tensor, ``"float16"`` or ``"float32"``."""
    size = 2 if dtype == "float16" else 4
    for side in shape:
        size *= side
    return size

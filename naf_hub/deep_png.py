"""Colour PNGs of 16 bits, of which Pillow reads the upper 8 and which it does not write."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Mapping

import numpy as np

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {3: 2, 4: 6}  # of RGB and RGBA
UP = 2  # the filter: each row less the one above


def has_deep_colours(path: str | os.PathLike[str]) -> bool:
    """Whether a file is a PNG of 16-bit RGB or RGBA."""
    with open(path, "rb") as file:
        header = file.read(26)
    return header.startswith(SIGNATURE) and header[24:25] == b"\x10" and header[25] in COLOUR_TYPES.values()


def write_deep_png(
    path: str | os.PathLike[str], values: np.ndarray, texts: Mapping[str, str], profile: bytes | None = None
) -> None:
    """Write 16-bit colours.

    Args:
        path: of the file.
        values: (H, W, 3) or (H, W, 4) uint16.
        texts: by key, Latin-1; they stand before the pixels.
        profile: ICC profile of the colours.
    """
    height, width, channels = values.shape
    rows = np.frombuffer(values.astype(">u2").tobytes(), np.uint8).reshape(height, -1)
    differences = rows.copy()
    differences[1:] -= rows[:-1]
    pixels = np.concatenate([np.full((height, 1), UP, np.uint8), differences], axis=1)
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, COLOUR_TYPES[channels], 0, 0, 0))]
    if profile:
        chunks.append((b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    chunks += [(b"tEXt", f"{key}\0{text}".encode("latin-1")) for key, text in texts.items()]
    chunks += [(b"IDAT", zlib.compress(pixels.tobytes())), (b"IEND", b"")]
    with open(path, "wb") as file:
        file.write(SIGNATURE)
        for kind, data in chunks:
            file.write(struct.pack(">I", len(data)) + kind + data)
            file.write(struct.pack(">I", zlib.crc32(kind + data)))

"""Picture files as Pillow does not write them: PNGs and TIFFs of any depth, byte by byte."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np

PHOTOMETRIC = 262


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _rows(values: np.ndarray, bits: int) -> list[bytes]:
    rows = values.reshape(len(values), -1)
    if bits >= 8:
        return [row.tobytes() for row in rows]
    digits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - bits :]
    return [row.tobytes() for row in np.packbits(digits.reshape(len(rows), -1), axis=1)]


def png(values: np.ndarray, bits: int, transparent: tuple[int, ...] = ()) -> bytes:
    """Grey (H, W) or colour (H, W, 3) values of so many bits, and the value that is transparent."""
    colour = {2: 0, 3: 2}[values.ndim]
    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], bits, colour, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row for row in _rows(values, bits)))
    declared = _chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + declared
        + _chunk(b"IDAT", data)
        + _chunk(b"IEND", b"")
    )


def tiff(values: np.ndarray, bits: int, tags: Mapping[int, int] | None = None) -> bytes:
    """Little-endian values (H, W) or (H, W, S) of so many bits; ``tags`` adds or replaces short ones."""
    height, width = values.shape[:2]
    samples = values.shape[2] if values.ndim == 3 else 1
    data = b"".join(_rows(values, bits))
    kind = {"f": 3, "i": 2}.get(values.dtype.kind, 1)
    short = {258: [bits] * samples, 259: [1], PHOTOMETRIC: [2 if samples > 2 else 1], 277: [samples]}
    short |= {339: [kind] * samples, **({338: [2]} if samples in (2, 4) else {})}
    short |= {tag: [value] for tag, value in (tags or {}).items()}
    count = len(short) + 5
    beyond, entries = b"", b""
    after = 8 + 2 + 12 * count + 4
    room = sum(2 * len(v) for v in short.values() if len(v) > 2)
    long = {256: width, 257: height, 273: after + room, 278: height, 279: len(data)}
    for tag in sorted([*short, *long]):
        if tag in long:
            entries += struct.pack("<HHII", tag, 4, 1, long[tag])
            continue
        packed = struct.pack(f"<{len(short[tag])}H", *short[tag])
        if len(packed) > 4:
            packed, beyond = struct.pack("<I", after + len(beyond)), beyond + packed
        entries += struct.pack("<HHI", tag, 3, len(short[tag])) + packed.ljust(4, b"\0")
    return b"II*\0" + struct.pack("<IH", 8, count) + entries + struct.pack("<I", 0) + beyond + data

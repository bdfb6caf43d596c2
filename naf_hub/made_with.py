"""What a result says of how it was made, so that running a batch again can tell what is missing.

The record is JSON text: in the metadata of safetensors, as a text of PNG pictures, in ``NAME.npy.json`` beside an
array, since ``.npy`` holds nothing else.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .version import __version__

if TYPE_CHECKING:
    from torch import nn

KEY = "naf-hub"
# To be raised when the same settings give other results, or the record changes its form.
FORMAT = 1
# Options on which results do not depend.
WITHOUT_EFFECT = frozenset({"memory"})
# The setting that says what a picture shows, where there is a choice.
SHOWS = "shows"
RESTORED, BEFORE_AFTER = "the photo, restored", "the photo before and after"
# Of a .safetensors file, as the format has it.
LONGEST_HEADER = 100_000_000
_PNG = b"\x89PNG\r\n\x1a\n"


def digest_weights(model: nn.Module) -> str:
    """sha256 of every weight and buffer with its name; options are not part of it."""
    import torch

    digest = hashlib.sha256()
    for key, value in sorted(model.state_dict().items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def describe_model(
    word: str, model: nn.Module, name: str, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Settings that a model is among: its name, its weights and its constructor options."""
    shown = {k: str(v) for k, v in sorted((options or {}).items()) if k not in WITHOUT_EFFECT}
    return {word: name, f"options of the {word}": shown, f"weights of the {word}": digest_weights(model)}


def describe_photo(photo: Path, place: Path) -> dict[str, Any]:
    """What tells a photo from another and from its own later versions; no folder of the user's is named."""
    from .weights.checksums import sha256_of

    state = photo.stat()
    return {"photo": place.as_posix(), "bytes": state.st_size, "time": state.st_mtime_ns,
            "sha256": sha256_of(photo)}  # fmt: skip


def record(settings: Mapping[str, Any], photo: Mapping[str, Any]) -> str:
    """The record as text, ASCII throughout."""
    return json.dumps({"format": FORMAT, "version": __version__, "settings": settings, "photo": photo})


def shard_record(settings: Mapping[str, Any], photos: Sequence[Mapping[str, Any]]) -> str:
    """The record of a shard, which holds features of several photos; as :func:`record`."""
    said = {"format": FORMAT, "version": __version__, "settings": settings, "photos": photos}
    return json.dumps(said)


def sidecar(result: Path) -> Path:
    """Where the record of a result lies: beside it if it is a ``.npy`` file, else in it."""
    return result.with_name(f"{result.name}.json") if result.suffix == ".npy" else result


def read_record(result: Path) -> dict[str, Any] | None:
    """The record of a result; ``None`` of a file that has none, so that it is somebody else's."""
    try:
        text = {".png": _in_picture, ".npy": _beside_array}.get(result.suffix, _in_safetensors)(result)
        found = json.loads(text)
    except (OSError, ValueError, KeyError, struct.error):
        return None
    return found if isinstance(found, dict) and isinstance(found.get("settings"), dict) else None


def _in_picture(path: Path) -> str:
    with path.open("rb") as file:
        if file.read(len(_PNG)) != _PNG:
            raise ValueError(f"{path} is no PNG")
        while True:
            length, kind = struct.unpack(">I4s", file.read(8))
            end = file.tell() + length + 4  # a checksum follows
            if kind == b"tEXt":
                key, _, value = file.read(min(length, 1_000_000)).partition(b"\0")
                if key == KEY.encode():
                    return value.decode("ascii")
            if kind == b"IDAT":  # texts of ours stand before the pixels
                raise KeyError(KEY)
            file.seek(end)


def _in_safetensors(path: Path) -> str:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(min(length, LONGEST_HEADER)))["__metadata__"][KEY]


def _beside_array(path: Path) -> str:
    return sidecar(path).read_text(encoding="ascii")


def is_beginning(path: Path) -> bool:
    """Whether a ``.safetensors`` file is the beginning of one of ours, or empty: cut before its record ended."""
    start = f'{{"__metadata__":{{"{KEY}":'.encode()
    with path.open("rb") as file:
        data = file.read(8 + len(start))
    length = int.from_bytes(data[:8], "little")
    return not data or (data[8:] == start and path.stat().st_size < 8 + length)


def require_free(path: Path, force: bool) -> None:
    """Require that a result may be written to ``path``.

    Raises:
        FileExistsError: a file is there that stays: one that naf-hub did not make, or any without ``force``.
    """
    if not os.path.lexists(path):
        return
    if path.is_symlink() or read_record(path) is None:
        raise FileExistsError(f"{path} exists and is no result of naf-hub; it stays: choose another -o")
    if not force:
        raise FileExistsError(f"{path} exists: use --force to make it anew, or another -o")


def is_result_picture(path: Path) -> bool:
    """Whether a file is a picture that naf-hub made of a photo, a restored photo or another."""
    return path.suffix.lower() == ".png" and read_record(path) is not None


def is_restored_photo(path: Path) -> bool:
    """Whether a file is a photo that naf-hub restored, so that it is a photo still."""
    found = read_record(path)
    return found is not None and found["settings"].get(SHOWS) == RESTORED


def differences(found: Mapping[str, Any], settings: Mapping[str, Any], photo: Path, place: Path) -> list[str]:
    """How a result differs from what would be made now; empty if it is the same.

    Args:
        found: record of the result.
        settings: that it would be made with.
        photo, place: what it would be made of, see :func:`describe_photo`.
    """
    said = setting_differences(found, settings)
    return said if found.get("format") != FORMAT else said + _of_photo(found.get("photo") or {}, photo, place)


def setting_differences(found: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """How the record of a result differs from settings, whatever the photo; see :func:`differences`."""
    if found.get("format") != FORMAT:
        return [f"naf-hub {found.get('version')}, whose results have another form"]
    return [_difference(key, found["settings"].get(key), value) for key, value in settings.items()
            if found["settings"].get(key) != value]  # fmt: skip


def _difference(key: str, before: Any, now: Any) -> str:
    return f"{key} {before}, not {now}" if isinstance(now, str) and len(now) < 64 else f"other {key}"


def _of_photo(found: Mapping[str, Any], photo: Path, place: Path) -> list[str]:
    if found.get("photo") != place.as_posix():
        return [f"another photo, {found.get('photo')}"]
    from .weights.checksums import sha256_of

    state = photo.stat()
    if found.get("bytes") == state.st_size and (
        found.get("time") == state.st_mtime_ns or found.get("sha256") == sha256_of(photo)
    ):
        return []
    return ["an earlier version of the photo, or another of that name"]

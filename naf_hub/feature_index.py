"""The index of a folder of shards: which file holds the features of which photo, as the Hub's index files say it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .atomic import atomic_file
from .made_with import FORMAT
from .version import __version__

INDEX = "features.index.json"


@dataclasses.dataclass(frozen=True)
class Shard:
    """What the index says of a shard.

    Attributes:
        bytes: of the file; of another size it is another file.
        tensors: ``features/PHOTO`` and ``low_res/PHOTO`` of each photo.
    """

    bytes: int
    tensors: tuple[str, ...]

    @property
    def photos(self) -> list[str]:
        """Each once, in order."""
        return list(dict.fromkeys(tensor.partition("/")[2] for tensor in self.tensors))


def read_index(folder: Path) -> dict[str, Shard]:
    """The shards of a folder by file name; empty where there is no index, or none that can be read."""
    try:
        data = json.loads((folder / INDEX).read_text(encoding="utf-8"))
        tensors: dict[str, list[str]] = {}
        for tensor, file in data["weight_map"].items():
            tensors.setdefault(file, []).append(tensor)
        sizes = data["metadata"]["bytes"]
        return {file: Shard(int(sizes[file]), tuple(names)) for file, names in tensors.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):  # the shards say it, too
        return {}


def require_own_index(folder: Path) -> None:
    """Require that what has the name of the index is one.

    Raises:
        FileExistsError: it is none, and stays.
    """
    path = folder / INDEX
    if path.exists() and not read_index(folder):
        raise FileExistsError(
            f"{path} exists and is no index of naf-hub; it stays: move it, or choose another -o"
        )


def write_index(folder: Path, shards: Mapping[str, Shard], settings: Mapping[str, Any]) -> None:
    """Write the index: ``weight_map``, the file of each tensor, and ``metadata``, sizes and settings.

    Raises:
        OSError: it cannot be written.
    """
    metadata = {
        "total_size": sum(shard.bytes for shard in shards.values()),
        "bytes": {name: shard.bytes for name, shard in shards.items()},
        "format": FORMAT,
        "version": __version__,
        "settings": dict(settings),
    }
    files = {tensor: name for name, shard in shards.items() for tensor in shard.tensors}
    with atomic_file(folder / INDEX) as temporary:
        temporary.write_text(json.dumps({"metadata": metadata, "weight_map": files}, indent=1))

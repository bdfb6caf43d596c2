"""Features of the frozen backbone on disk, so that it runs once per crop instead of once per epoch."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from naf_hub.atomic import atomic_file
from naf_hub.safetensors_saving import save_tensors

from .plan import Item

FORMAT = 2


class CropFeatures:
    """float16 features with the 8-bit crop they are of, one file per crop and one per input size.

    An entry is used only under the settings it was made with (``identity``), and is written whole or not
    at all; a damaged one is made anew.

    Args:
        folder: may hold caches of several runs side by side.
        identity: everything the features depend on, as plain JSON data.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        text = json.dumps({"format": FORMAT, **identity}, sort_keys=True)
        self.folder = Path(folder) / hashlib.sha256(text.encode()).hexdigest()[:16]
        description = self.folder / "identity.json"
        if not description.is_file():
            with atomic_file(description) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    def _file(self, path: Path, item: Item, part: str) -> Path:
        status = path.stat()
        text = f"{path.resolve()}/{status.st_size}/{status.st_mtime_ns}/{item.view}"
        name = hashlib.sha256(text.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}-{part}.safetensors"

    def load(self, path: Path, item: Item) -> dict[str, Tensor] | None:
        """What :meth:`store` kept of a crop and of its input's size; ``None`` if not all is there."""
        try:
            crop = load_file(self._file(path, item, "crop"))
            small = load_file(self._file(path, item, f"input{item.sizes.input}"))
        except (OSError, SafetensorError):
            return None
        return {**crop, **small}

    def store(
        self,
        path: Path,
        item: Item,
        crop: Mapping[str, Tensor],
        inputs: Mapping[int, Mapping[str, Tensor]],
    ) -> None:
        """Keep the features of one crop.

        Args:
            path: the image file.
            item: which crop.
            crop: maps (C, h, w) of the crop, float16, by name, and the crop itself, uint8.
            inputs: maps (C, h', w') of the smaller images, float16, by their side in pixels and by name.
        """
        files: dict[Path, Mapping[str, Tensor]] = {self._file(path, item, "crop"): crop}
        files |= {self._file(path, item, f"input{side}"): small for side, small in inputs.items()}
        for file, tensors in files.items():
            save_tensors(file, {key: tensor.contiguous() for key, tensor in tensors.items()})

"""Fits kept on disk: one serves every map of the same image and grid, in later runs too."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Hashable
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from naf_hub.atomic import atomic_file

from .splats import Splats

log = logging.getLogger(__name__)

# Raised whenever the same image and settings would be fitted to something else.
VERSION = 1


class KeptFits:
    """A folder of fits: a safetensors file of some kilobytes each, named by what it was fitted to.

    Other files of the folder are left alone, and processes may share it.

    Args:
        folder: made before the first fit.

    Raises:
        ValueError: no folder is named.
        TypeError: it is no path.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        if not os.fspath(folder):
            raise ValueError("cache must name a folder")
        self.folder = Path(folder).expanduser()

    def path(self, image: Tensor, grid: tuple[int, int], settings: tuple[Hashable, ...]) -> Path:
        """Where the fit of an image (3, H, W) to a grid is kept; kinds of devices round, and so fit, differently."""
        facts = (VERSION, tuple(image.shape), str(image.dtype), image.device.type, grid, settings)
        digest = hashlib.sha256(repr(facts).encode())
        digest.update(image.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return self.folder / f"{digest.hexdigest()[:32]}.safetensors"

    def fetch(
        self,
        image: Tensor,
        grid: tuple[int, int],
        settings: tuple[Hashable, ...],
        fit: Callable[[], Splats],
    ) -> Splats:
        """The fit of an image (3, H, W) to a grid: the kept one, or what ``fit`` makes, which is then kept.

        A file that cannot be read is told of and made anew; a fit that cannot be written is told of and returned.

        Raises:
            OSError: the folder cannot be made.
        """
        self.folder.mkdir(parents=True, exist_ok=True)  # not after a minute of fitting
        path = self.path(image, grid, settings)
        if path.is_file():
            try:
                return self._read(path, grid, image.device)
            except (SafetensorError, OSError, ValueError) as error:
                log.warning("%s cannot be read and is made anew: %s", path, error)
        found = fit()
        try:
            with atomic_file(path) as temporary:
                save_file({"splats": torch.stack(tuple(found)).cpu()}, temporary)
        except (SafetensorError, OSError) as error:
            log.warning("the fit is not kept, %s cannot be written: %s", path, error)
        return found

    @staticmethod
    def _read(path: Path, grid: tuple[int, int], device: torch.device) -> Splats:
        tensors = load_file(path)
        numbers = tensors.get("splats")
        if numbers is None or numbers.shape != (4, *grid) or not numbers.isfinite().all():
            raise ValueError(f"it does not hold four numbers for each of {grid[0]}x{grid[1]} cells")
        return Splats(*numbers.to(device))

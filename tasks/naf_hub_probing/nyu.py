"""NYUv2's labelled pairs, of the one file in which they are published (Silberman et al., ECCV 2012)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from naf_hub.errors import DatasetError, MissingExtraError
from naf_hub.paired_files import spread

from .depth_folders import DepthPairs
from .pairs import LabelledImage
from .transforms import Size

LABELLED, SPLITS = "nyu_depth_v2_labeled.mat", "splits.mat"
ADDRESS = "https://cs.nyu.edu/~fergus/datasets/indoor_seg_sup"
INDICES = {"train": "trainNdxs", "test": "testNdxs"}


def find_nyu(root: Path) -> Path | None:
    """The folder of the labelled file, where ``root`` is that file or its folder."""
    if root.name == LABELLED and root.is_file():
        return root.parent
    return root if (root / LABELLED).is_file() else None


class NyuPairs(DepthPairs):
    """The official 795 training or 654 test pairs: colours, and depths as they were measured (``rawDepths``).

    Depths are metres, 0 where none was measured; the in-painted ones are not read.

    Args:
        folder: holds ``nyu_depth_v2_labeled.mat`` and ``splits.mat``.
        split: ``"train"`` or ``"test"``.
        size, farthest: see :class:`DepthPairs`.
        limit: keep at most this many pairs, evenly spaced.

    Raises:
        DatasetError: ``splits.mat`` is missing, or a file is damaged.
        MissingExtraError: h5py or SciPy is not installed.
    """

    def __init__(
        self, folder: Path, split: str, size: Size, farthest: float, limit: int | None = None
    ) -> None:
        super().__init__(size, farthest)
        self.file = folder / LABELLED
        self.files: Sequence[Path] = [self.file, folder / SPLITS]
        self.numbers = spread(_read_split(folder / SPLITS, INDICES[split]), limit)
        with _open(self.file) as file:
            count = file["images"].shape[0]
        if max(self.numbers) >= count:
            raise DatasetError(
                f"{self.file}: has {count} pairs, {SPLITS} names number {max(self.numbers) + 1}"
            )
        self.facts = {**self.facts, "split": split}

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, position: int) -> LabelledImage:
        """Read one pair."""
        number = self.numbers[position]
        with _open(self.file) as file:  # every time, since workers must not share an open file
            try:
                image, depth = file["images"][number], file["rawDepths"][number]
            except OSError as error:
                raise DatasetError(f"{self.file}: pair {number + 1} is damaged ({error})") from error
        image, depth = image.swapaxes(-1, -2), depth.swapaxes(-1, -2)  # MATLAB stores columns first
        picture = torch.from_numpy(image.astype(np.float32) / 255)
        return self.prepare(position, picture, torch.from_numpy(depth.astype(np.float32)))


def _read_split(path: Path, name: str) -> list[int]:
    if not path.is_file():
        raise DatasetError(
            f"no {path}; NYUv2's official split is needed beside {LABELLED}: {ADDRESS}/{SPLITS}"
        )
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise _missing("scipy") from error
    try:
        numbers = loadmat(str(path), variable_names=[name])[name].ravel().astype(int) - 1
    except Exception as error:  # of damaged files it raises errors of every kind
        raise DatasetError(f"{path}: not NYUv2's {SPLITS} with {name} ({error})") from error
    if not len(numbers) or numbers.min() < 0:
        raise DatasetError(f"{path}: {name} must hold numbers from 1 on")
    return numbers.tolist()


def _open(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise _missing("h5py") from error
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read as NYUv2's HDF5 file ({error})") from error
    if not {"images", "rawDepths"} <= set(file):
        file.close()
        raise DatasetError(f"{path}: has no images and rawDepths")
    return file


def _missing(module: str) -> MissingExtraError:
    return MissingExtraError(f"NYUv2's {LABELLED} needs {module}; install naf-hub[eval]")

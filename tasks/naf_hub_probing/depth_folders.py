"""Depth data on disk: ``rgb/`` and ``depth/`` side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.errors import DatasetError
from naf_hub.images import read_image, stored_values
from naf_hub.labels import IGNORE
from naf_hub.paired_files import pair_files, require_same_shape, spread

from .depth_losses import ReadOut
from .pairs import LabelledImage, Pairs
from .transforms import Size, resize_label

LAYOUT = (
    "DATA/{train,test}/{rgb,depth}/ (pictures, and 16-bit grey PNGs of the same names), DATA/{rgb,depth}/ with "
    "training data of its own (--train-data), or NYUv2's nyu_depth_v2_labeled.mat and splits.mat in DATA "
    "(https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html)"
)


class DepthPairs(Pairs):
    """Pictures and depths; a subclass gives both as they are stored.

    Args:
        size: an int S: the largest square from the centre, brought to S x S; or (H, W): the whole picture.
        farthest: depths beyond so many metres are not known.
    """

    counted = ("with depth",)

    def __init__(self, size: Size, farthest: float) -> None:
        self.size, self.farthest = size, farthest
        self.nothing = f"no depth lies between 0 and {farthest:g} m; are unit and largest depth right?"
        self.facts = {"sizes of the pictures": str(size), "farthest depth": farthest}

    def count(self, label: Tensor) -> Tensor:
        """Pixels whose depth is known."""
        return (label != IGNORE).sum()[None]

    def prepare(self, position: int, image: Tensor, depth: Tensor) -> LabelledImage:
        """Bring a picture (3, H, W) and its depth (h, w) in metres to one size, bilinear and nearest.

        Depths are ``IGNORE`` where they are 0, no number, or beyond ``farthest``.
        """
        if isinstance(self.size, int):
            image, depth, size = central_square(image), central_square(depth), (self.size, self.size)
        else:
            size = self.size
        image = F.interpolate(image[None], size, mode="bilinear", antialias=True)[0]
        depth = resize_label(depth, size)
        known = (depth > 0) & (depth <= self.farthest)
        return LabelledImage(position, image, torch.where(known, depth, float(IGNORE)))


class DepthFolder(DepthPairs):
    """The pairs of ``rgb/`` and ``depth/`` in a folder, matched by name without suffix, sorted.

    Args:
        folder: holds both.
        unit: metres that one step of the depth pictures stands for.
        size, farthest: see :class:`DepthPairs`.
        limit: keep at most this many pairs, evenly spaced.
        out: folder of results, which is not searched.

    Raises:
        DatasetError: a folder is missing or empty, or a depth has no picture.
    """

    def __init__(
        self,
        folder: Path,
        unit: float,
        size: Size,
        farthest: float,
        limit: int | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__(size, farthest)
        found, self.unlabelled = pair_files(folder / "rgb", folder / "depth", LAYOUT, out)
        self.pairs = spread(found, limit)
        self.files: Sequence[Path] = [path for pair in self.pairs for path in pair]
        self.unit = unit
        self.facts = {**self.facts, "unit": unit}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> LabelledImage:
        """Read one pair.

        Raises:
            ImageError: the picture or the depth cannot be read.
            DatasetError: see :func:`read_depth`; or both differ in shape.
        """
        image_path, depth_path = self.pairs[position]
        image, depth = read_image(image_path), read_depth(depth_path, self.unit)
        require_same_shape(image, depth, image_path, depth_path)
        return self.prepare(position, image, depth)


def read_depth(path: str | os.PathLike[str], unit: float) -> Tensor:
    """(H, W) float32 metres of a grey picture of 16-bit integers, one step being ``unit`` metres.

    Raises:
        ImageError: not a readable picture.
        DatasetError: not grey, or not of 16 bits.
    """
    mode, values = stored_values(path)
    if values.ndim != 2 or values.dtype.kind not in "iu" or values.dtype.itemsize < 2:
        raise DatasetError(f"{path}: depths must be a grey picture of 16 bits, not {mode} of {values.dtype}")
    return torch.from_numpy(values.astype(np.float32) * np.float32(unit))


def central_square(values: Tensor) -> Tensor:
    """The largest square from the centre of (..., H, W)."""
    height, width = values.shape[-2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return values[..., top : top + side, left : left + side]


def open_splits(
    data: str | os.PathLike[str],
    train_data: str | os.PathLike[str] | None,
    unit: float,
    size: Size,
    read: ReadOut,
    limits: tuple[int | None, int | None],
    out: str | os.PathLike[str] | None,
) -> tuple[DepthPairs, DepthPairs]:
    """Pairs to train on and to score on, of any layout of ``LAYOUT``.

    Args:
        data: the data folder.
        train_data: folder with ``rgb/`` and ``depth/`` to train on in place of a split of ``data``.
        unit, size: see :class:`DepthFolder`.
        read: its farthest depth is that of the data.
        limits: of training and scoring pairs.
        out: see :class:`DepthFolder`.

    Raises:
        DatasetError: none of the layouts.
    """
    from .nyu import NyuPairs, find_nyu

    root, farthest = Path(data), read.farthest
    labelled = find_nyu(root)
    if labelled is not None:
        val: DepthPairs = NyuPairs(labelled, "test", size, farthest, limits[1])
    else:
        flat = (root / "rgb").is_dir()
        test = (
            root if flat else next((root / n for n in ("test", "val") if (root / n).is_dir()), root / "test")
        )
        val = DepthFolder(test, unit, size, farthest, limits[1], out)
        if flat and train_data is None:
            raise DatasetError(f"{root} has no training data; expected {LAYOUT}")
    if train_data is not None:
        other = Path(train_data)
        inner = other if (other / "rgb").is_dir() else other / "train"
        return DepthFolder(inner, unit, size, farthest, limits[0], out), val
    if labelled is not None:
        return NyuPairs(labelled, "train", size, farthest, limits[0]), val
    return DepthFolder(root / "train", unit, size, farthest, limits[0], out), val

"""Segmentation data on disk: ``{train,val}/{images,labels}/`` and a ``classes.json``, or as it was published."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from naf_hub.images import read_image
from naf_hub.labels import IGNORE, Classes, read_classes, read_label
from naf_hub.paired_files import pair_files, require_same_shape, spread

from .layouts import LAYOUTS, find_layout
from .pairs import LabelledImage, Pairs
from .presets import FOLDER
from .transforms import Geometry


class LabelledFiles(Pairs):
    """Pictures and labels in pairs of files.

    Args:
        found: the pairs.
        classes: what the ids of the labels mean.
        geometry: sizes to bring images and labels to.
        limit: keep at most this many pairs, evenly spaced.
    """

    def __init__(
        self,
        found: Sequence[tuple[Path, Path]],
        classes: Classes,
        geometry: Geometry | None = None,
        limit: int | None = None,
    ) -> None:
        self.pairs = spread(list(found), limit)
        self.files = [path for pair in self.pairs for path in pair]
        self.classes = classes
        self.geometry = geometry or Geometry()
        self.counted = classes.names
        self.facts = {"sizes of the pictures": str(self.geometry), "classes": list(classes.names)}

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> LabelledImage:
        """Read one pair.

        Raises:
            ImageError: the image or the label cannot be read.
            DatasetError: see :func:`naf_hub.labels.read_label`; or image and label differ in shape.
        """
        image_path, label_path = self.pairs[position]
        image, label = read_image(image_path), read_label(label_path, self.classes)
        require_same_shape(image, label, image_path, label_path)
        return LabelledImage(position, *self.geometry.apply(image, label))

    def count(self, label: Tensor) -> Tensor:
        """Pixels of each class."""
        return torch.bincount(label[label != IGNORE], minlength=len(self.counted))


class SegmentationFolder(LabelledFiles):
    """The pairs of one split, sorted by name. ``images`` and ``labels`` match by name without suffix.

    Args:
        root: the data folder.
        split: ``"train"`` or ``"val"``.
        classes: see :func:`naf_hub.labels.read_classes`.
        geometry, limit: see :class:`LabelledFiles`.
        out: folder of results, which is not searched.

    Raises:
        DatasetError: a folder is missing or empty, or a label has no image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        classes: Classes,
        geometry: Geometry | None = None,
        limit: int | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        folder, layout = Path(root) / split, f"{{train,val}}/{{images,labels}}/ in {root}"
        found, unlabelled = pair_files(folder / "images", folder / "labels", layout, out)
        super().__init__(found, classes, geometry, limit)
        self.unlabelled = unlabelled


def open_segmentation(
    data: str | os.PathLike[str],
    layout: str | None,
    geometry: Geometry,
    limits: tuple[int | None, int | None],
    out: str | os.PathLike[str] | None = None,
    allow_incomplete: bool = False,
) -> tuple[str, LabelledFiles, LabelledFiles]:
    """Name of the layout, and the pairs to train on and to score on.

    Args:
        data: the data folder.
        layout: see :func:`naf_hub_probing.layouts.find_layout`.
        geometry: see :class:`LabelledFiles`.
        limits: of training and scoring pairs.
        out: see :class:`SegmentationFolder`.
        allow_incomplete: take a published data set although pictures are missing.

    Raises:
        DatasetError: the folder is not as expected.
        ValueError: no such layout.
    """
    root = Path(data)
    name = find_layout(root, layout)
    splits = ("train", limits[0]), ("val", limits[1])
    if name == FOLDER:
        classes = read_classes(root / "classes.json")
        train, val = (SegmentationFolder(root, split, classes, geometry, n, out) for split, n in splits)
    else:
        chosen = LAYOUTS[name]
        classes = chosen.classes()
        train, val = (
            LabelledFiles(chosen.open(root, split, allow_incomplete), classes, geometry, n)
            for split, n in splits
        )
    return name, train, val

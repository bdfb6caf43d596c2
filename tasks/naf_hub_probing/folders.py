"""Segmentation data on disk: ``{train,val}/{images,labels}/`` and a ``classes.json`` beside them."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor

from naf_hub.images import read_image
from naf_hub.labels import IGNORE, Classes, read_label
from naf_hub.paired_files import pair_files, require_same_shape, spread

from .pairs import LabelledImage, Pairs
from .transforms import Geometry


class SegmentationFolder(Pairs):
    """The pairs of one split, sorted by name. ``images`` and ``labels`` match by name without suffix.

    Args:
        root: the data folder.
        split: ``"train"`` or ``"val"``.
        classes: see :func:`naf_hub.labels.read_classes`.
        geometry: sizes to bring images and labels to.
        limit: keep at most this many pairs, evenly spaced.
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
        found, self.unlabelled = pair_files(folder / "images", folder / "labels", layout, out)
        self.pairs = spread(found, limit)
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

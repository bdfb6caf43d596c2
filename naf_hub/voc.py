"""Pascal VOC 2012 as it is published: its classes, and the files of a split (Everingham et al., IJCV 2010)."""

from __future__ import annotations

from pathlib import Path

from .errors import DatasetError
from .paired_files import read_list, require_files

VOC_LAYOUT = "[VOCdevkit/VOC2012/]{JPEGImages,SegmentationClass}/ and ImageSets/Segmentation/{train,val}.txt"
VOC_SOURCE = "http://host.robots.ox.ac.uk/pascal/VOC/voc2012"
VOC_VOID = 255
"""Value of the contours, of which no class is known."""
VOC_NAMES = (
    "background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
"""The class of each label value."""


def find_voc(root: Path) -> Path | None:
    """The folder of the data set: ``root``, or where the archive puts it below."""
    places = (root, root / "VOC2012", root / "VOCdevkit" / "VOC2012")
    return next(
        (f for f in places if (f / "SegmentationClass").is_dir() and (f / "JPEGImages").is_dir()), None
    )


def voc_pairs(folder: Path, split: str) -> list[tuple[Path, Path]]:
    """Pictures and labels that ``train.txt`` or ``val.txt`` names, in its order.

    Raises:
        DatasetError: the list is missing or empty, or names a file that is not there.
    """
    listed = folder / "ImageSets" / "Segmentation" / f"{split}.txt"
    if not listed.is_file():
        raise DatasetError(f"no file {listed}; expected {VOC_LAYOUT}: {VOC_SOURCE}")
    return require_files(
        [
            (folder / "JPEGImages" / f"{name}.jpg", folder / "SegmentationClass" / f"{name}.png")
            for name in read_list(listed)
        ],
        listed,
    )

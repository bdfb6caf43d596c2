"""Which layout a folder of segmentation data has: one that was published, or naf-hub's own."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from naf_hub.errors import DatasetError
from naf_hub.labels import Classes
from naf_hub.voc import VOC_LAYOUT, VOC_SOURCE, find_voc, voc_pairs

from . import label_maps, published
from .presets import FOLDER
from .published import FilePairs

OWN_LAYOUT = "{train,val}/{images,labels}/ and classes.json"


@dataclasses.dataclass(frozen=True)
class Layout:
    """A published data set on disk.

    Attributes:
        title: its name.
        expected: its folders, in words.
        source: where to get it.
        find: its folder, where a root is that or one above; ``None`` where it is not there.
        pairs: files of pictures and labels of the folder's ``"train"`` or ``"val"``.
        classes: what the values of labels mean.
        counts: how many pictures ``train`` and ``val`` have; ``None`` where the publishers' lists do not say.
    """

    title: str
    expected: str
    source: str
    find: Callable[[Path], Path | None]
    pairs: Callable[[Path, str], FilePairs]
    classes: Callable[[], Classes]
    counts: tuple[int, int] | None = None

    def open(self, root: Path, split: str, allow_incomplete: bool) -> FilePairs:
        """Files of pictures and labels of a split.

        Raises:
            DatasetError: it is not there; or not all of it, where that is not allowed.
        """
        layout = f"expected {self.expected}: {self.source}"
        if not root.is_dir():
            raise DatasetError(f"no folder {root}; {layout}")
        folder = self.find(root)
        if folder is None:
            raise DatasetError(f"{root} holds no {self.title}; {layout}")
        try:
            pairs = self.pairs(folder, split)
        except DatasetError as error:
            if self.source in str(error):
                raise
            raise DatasetError(f"{error}; {layout}") from error
        number = self.counts and self.counts[split == "val"]
        if number is not None and len(pairs) != number and not allow_incomplete:
            raise DatasetError(
                f"{folder} has {len(pairs)} pictures in {split}, and {self.title} has {number}; get it again "
                f"({self.source}), or give --allow-incomplete"
            )
        return pairs


def _below(places: tuple[str, ...], *marks: tuple[str, ...]) -> Callable[[Path], Path | None]:
    """What finds the first of the places below a root that has all folders of one of the marks."""

    def find(root: Path) -> Path | None:
        folders = [root / place for place in places]
        return next((f for f in folders if any(all((f / m).is_dir() for m in each) for each in marks)), None)

    return find


LAYOUTS = {
    "coco": Layout(
        "COCO-Stuff",
        "[COCOStuff/]{images,annotations}/{train2017,val2017}/ (below dataset/, too) and "
        "curated/{train2017,val2017}/Coco164kFull_Stuff_Coarse.txt",
        "https://github.com/nightrome/cocostuff; the lists with https://github.com/mhamilton723/STEGO",
        _below((".", "COCOStuff"), ("curated",), ("currated",)),
        published.coco_pairs,
        label_maps.coco_classes,
        (97_702, 4_172),
    ),
    "voc": Layout(
        "Pascal VOC 2012", VOC_LAYOUT, VOC_SOURCE, find_voc, voc_pairs, label_maps.voc_classes, (1_464, 1_449)
    ),
    "ade20k": Layout(
        "ADE20K",
        "[ADEChallengeData2016/]{images,annotations}/{training,validation}/",
        "http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip",
        _below((".", "ADEChallengeData2016"), ("images/training", "annotations/training")),
        published.ade20k_pairs,
        label_maps.ade20k_classes,
        (20_210, 2_000),
    ),
    "cityscapes": Layout(
        "Cityscapes",
        "[cityscapes/]leftImg8bit/{train,val}/CITY/*_leftImg8bit.png and gtFine/{train,val}/CITY/*_gtFine_labelIds.png",
        "https://www.cityscapes-dataset.com",
        _below((".", "cityscapes"), ("leftImg8bit", "gtFine")),
        published.cityscapes_pairs,
        label_maps.cityscapes_classes,
        (2_975, 500),
    ),
    "kitti360": Layout(
        "KITTI-360",
        "[KITTI-360/]data_2d_raw/DRIVE/image_00/data_rect/ and data_2d_semantics/train/DRIVE/image_00/semantic/",
        "https://www.cvlibs.net/datasets/kitti-360",
        _below((".", "KITTI-360"), ("data_2d_raw", "data_2d_semantics")),
        published.kitti360_pairs,
        label_maps.kitti360_classes,
    ),
}


def find_layout(root: Path, name: str | None = None) -> str:
    """Name of the layout of a folder: a key of :data:`LAYOUTS`, or ``"folder"`` for naf-hub's own.

    Args:
        root: the data folder.
        name: what it is; ``None`` finds out.

    Raises:
        ValueError: no such layout.
        DatasetError: there is no folder; or none of the layouts fits it, or several.
    """
    if name is not None:
        if name not in (FOLDER, *LAYOUTS):
            raise ValueError(f"no layout {name!r}; there are: {FOLDER}, {', '.join(LAYOUTS)}")
        return name
    expected = (
        f"expected {OWN_LAYOUT}, or one of {', '.join(LAYOUTS)} as published (--layout NAME says how that is)"
    )
    if not root.is_dir():
        raise DatasetError(f"no folder {root}; {expected}")
    if (root / "classes.json").is_file():
        return FOLDER
    found = [key for key, layout in LAYOUTS.items() if layout.find(root) is not None]
    if len(found) > 1:
        raise DatasetError(f"{root} holds several data sets; choose with --layout: {', '.join(found)}")
    if not found:
        raise DatasetError(f"{root} holds no data set of segmentation; {expected}")
    return found[0]

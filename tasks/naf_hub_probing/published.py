"""Files of published segmentation data sets: where pictures and labels of a split lie, paired and in order."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path

from naf_hub.errors import DatasetError
from naf_hub.paired_files import pair_files, read_list, require_files

FilePairs = list[tuple[Path, Path]]
COCO_LISTS = ("Coco164kFull_Stuff_Coarse.txt", "Coco164kFull_Stuff_Coarse_7.txt", "Coco164kFew_Stuff_6.txt")
"""Lists of a split; the first that is there is taken. The last two name other selections of pictures."""
SHARE_TO_TRAIN, SEED = 0.8, 42


def coco_pairs(folder: Path, split: str) -> FilePairs:
    """COCO-Stuff's curated selection, as its list of a split names it.

    Raises:
        DatasetError: no list, or it names a file that is not there.
    """
    name = f"{split}2017"
    lists = [folder / curated / name / file for file in COCO_LISTS for curated in ("curated", "currated")]
    listed = next((path for path in lists if path.is_file()), None)
    if listed is None:
        raise DatasetError(f"no file {lists[0]}; it names the pictures of {split}")
    places = (folder, folder / "dataset")
    root = next((place for place in places if (place / "annotations" / name).is_dir()), None)
    if root is None:
        raise DatasetError(f"no folder {folder / 'annotations' / name}")
    images, labels = root / "images" / name, root / "annotations" / name
    pairs = [(images / f"{number}.jpg", labels / f"{number}.png") for number in read_list(listed)]
    return require_files(pairs, listed)


def ade20k_pairs(folder: Path, split: str) -> FilePairs:
    """ADE20K's pictures of a split.

    Raises:
        DatasetError: see :func:`naf_hub.paired_files.pair_files`.
    """
    name = {"train": "training", "val": "validation"}[split]
    images, labels = folder / "images" / name, folder / "annotations" / name
    return pair_files(images, labels, "{images,annotations}/{training,validation}/", None)[0]


def cityscapes_pairs(folder: Path, split: str) -> FilePairs:
    """Cityscapes' pictures of a split with their fine labels, of raw ids.

    Raises:
        DatasetError: no picture, or one without its label.
    """
    end = "_leftImg8bit.png"
    pictures = sorted((folder / "leftImg8bit" / split).glob(f"*/*{end}"))
    if not pictures:
        raise DatasetError(f"no *{end} in the cities of {folder / 'leftImg8bit' / split}")
    pairs: FilePairs = []
    for picture in pictures:
        name = picture.name.removesuffix(end) + "_gtFine_labelIds.png"
        label = folder / "gtFine" / split / picture.parent.name / name
        if not label.is_file():
            raise DatasetError(
                f"no file {label}, the label of {picture}; unpack gtFine_trainvaltest.zip there"
            )
        pairs.append((picture, label))
    return pairs


def kitti360_pairs(folder: Path, split: str) -> FilePairs:
    """KITTI-360's left camera: frames that have a label too, sorted, shuffled by a seed, four fifths to train on.

    The authors of NAF shuffled them as their file system listed them, so that their split is another. Where
    ``train.json`` and ``val.json`` lie in the folder, each a list of ``[picture, label]`` relative to it, those are
    the split.

    Raises:
        DatasetError: no frame with a label; or a list that is damaged or names a file that is not there.
    """
    listed = folder / f"{split}.json"
    if listed.is_file():
        return require_files(_read_pairs(listed), listed)
    labels = sorted((folder / "data_2d_semantics" / "train").glob("*/image_00/semantic/*.png"))
    pairs = [(_kitti360_picture(folder, label), label) for label in labels]
    pairs = [pair for pair in pairs if pair[0].is_file()]
    if not pairs:
        raise DatasetError(
            f"no frame with a label in {folder}: data_2d_raw/DRIVE/image_00/data_rect/FRAME.png beside "
            "data_2d_semantics/train/DRIVE/image_00/semantic/FRAME.png"
        )
    random.Random(SEED).shuffle(pairs)
    first = int(SHARE_TO_TRAIN * len(pairs))
    return pairs[:first] if split == "train" else pairs[first:]


def _kitti360_picture(folder: Path, label: Path) -> Path:
    return folder / "data_2d_raw" / label.parents[2].name / "image_00" / "data_rect" / label.name


def _read_pairs(listed: Path) -> FilePairs:
    try:
        found = json.loads(listed.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DatasetError(f"{listed}: no JSON ({error})") from error
    if not (isinstance(found, list) and found and all(map(_is_pair, found))):
        raise DatasetError(f'{listed}: give a list of ["PICTURE", "LABEL"], relative to its folder')
    return [(listed.parent / picture, listed.parent / label) for picture, label in found]


def _is_pair(entry: object) -> bool:
    return isinstance(entry, Sequence) and len(entry) == 2 and all(isinstance(part, str) for part in entry)

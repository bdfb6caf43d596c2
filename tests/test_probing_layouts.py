"""Segmentation data sets as they are published: tiny copies of each layout, label maps, presets."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from naf_hub.errors import DatasetError
from naf_hub.labels import IGNORE
from naf_hub_probing.folders import open_segmentation
from naf_hub_probing.layouts import LAYOUTS, find_layout
from naf_hub_probing.presets import LAYOUT_NAMES, PRESETS
from naf_hub_probing.published import COCO_LISTS
from naf_hub_probing.segmentation import SegmentationProtocol
from naf_hub_probing.transforms import Geometry

GOLDEN = load_file(Path(__file__).parent / "goldens" / "segmentation_label_maps.safetensors")
SIDE = 40
IDS = {"coco": [0, 181, 255], "voc": [0, 20, 255], "ade20k": [0, 150, 7], "cityscapes": [0, 7, 33],
       "kitti360": [35, 44, 7]}  # fmt: skip
"""Values of the labels, in stripes."""
INDICES = {"coco": [9, 24, IGNORE], "voc": [0, 20, IGNORE], "ade20k": [0, 150, 7],
           "cityscapes": [IGNORE, 0, 18], "kitti360": [4, IGNORE, 0]}  # fmt: skip


def write(path: Path, values: list[int] | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if values is None:
        Image.fromarray(np.full((SIDE, SIDE, 3), 90, np.uint8)).save(path)
    else:
        columns = np.array(values, np.uint8)[np.arange(SIDE) * len(values) // SIDE]
        Image.fromarray(np.tile(columns, (SIDE, 1))).save(path)


def place(picture: Path, label: Path, ids: list[int]) -> None:
    write(picture)
    write(label, ids)


def make_coco(root: Path, ids: list[int]) -> Path:
    home = root / "COCOStuff"
    for split in ("train2017", "val2017"):
        for name in ("000002", "000001"):
            place(home / "images" / split / f"{name}.jpg", home / "annotations" / split / f"{name}.png", ids)
        (home / "curated" / split).mkdir(parents=True)
        (home / "curated" / split / COCO_LISTS[0]).write_text("000002\n000001\n")
    return home


def make_voc(root: Path, ids: list[int]) -> Path:
    home = root / "VOCdevkit" / "VOC2012"
    lists = home / "ImageSets" / "Segmentation"
    lists.mkdir(parents=True)
    for split in ("train", "val"):
        names = [f"2007_{split}{i}" for i in range(2)]
        for name in names:
            place(home / "JPEGImages" / f"{name}.jpg", home / "SegmentationClass" / f"{name}.png", ids)
        (lists / f"{split}.txt").write_text("\n".join(names) + "\n")
    return home


def make_ade20k(root: Path, ids: list[int]) -> Path:
    home = root / "ADEChallengeData2016"
    for split, short in (("training", "train"), ("validation", "val")):
        for i in (1, 2):
            name = f"ADE_{short}_{i:08}"
            place(home / "images" / split / f"{name}.jpg", home / "annotations" / split / f"{name}.png", ids)
    return home


def make_cityscapes(root: Path, ids: list[int]) -> Path:
    home = root / "cityscapes"
    for split in ("train", "val"):
        for city in ("aachen", "ulm"):
            name = f"{city}_000000_000019"
            place(
                home / "leftImg8bit" / split / city / f"{name}_leftImg8bit.png",
                home / "gtFine" / split / city / f"{name}_gtFine_labelIds.png",
                ids,
            )
            write(home / "gtFine" / split / city / f"{name}_gtFine_instanceIds.png", [0])
    return home


def make_kitti360(root: Path, ids: list[int]) -> Path:
    home = root / "KITTI-360"
    for drive in ("2013_05_28_drive_0000_sync", "2013_05_28_drive_0002_sync"):
        labels = home / "data_2d_semantics" / "train" / drive / "image_00" / "semantic"
        for i in range(2):
            picture = home / "data_2d_raw" / drive / "image_00" / "data_rect" / f"{i:010}.png"
            place(picture, labels / picture.name, ids)
        write(labels / "0000000009.png", ids)  # a label without its frame
    return home


MAKERS = {"coco": make_coco, "voc": make_voc, "ade20k": make_ade20k, "cityscapes": make_cityscapes,
          "kitti360": make_kitti360}  # fmt: skip


def opened(data: Path, layout: str | None = None, allow_incomplete: bool = True):
    limits = (None, None)
    return open_segmentation(data, layout, Geometry(SIDE), limits, allow_incomplete=allow_incomplete)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_found_and_read(tmp_path: Path, name: str) -> None:
    home = MAKERS[name](tmp_path, IDS[name])
    for root in (tmp_path, home):
        found, train, val = opened(root)
        assert found == name
        assert (len(train), len(val)) == ((3, 1) if name == "kitti360" else (2, 2))
    sample = val[0]
    assert sample.image.shape == (3, SIDE, SIDE)
    assert sample.label[0, [0, SIDE // 2, SIDE - 1]].tolist() == INDICES[name]
    if LAYOUTS[name].counts is not None:
        with pytest.raises(DatasetError, match=r"has 2 pictures in train, and .*--allow-incomplete"):
            opened(tmp_path, allow_incomplete=False)


def test_layouts_have_names_for_the_command_line() -> None:
    assert tuple(LAYOUTS) == LAYOUT_NAMES
    assert {preset["layout"] for preset in PRESETS.values()} == set(LAYOUTS)


@pytest.mark.parametrize(
    ("name", "key", "count"),
    [("coco", "coco_fine_to_coarse", 27), ("cityscapes", "cityscapes_id_to_train", 19),
     ("kitti360", "kitti360_id_to_train", 19)],
)  # fmt: skip
def test_label_maps_are_the_published_ones(name: str, key: str, count: int) -> None:
    classes, table = LAYOUTS[name].classes(), GOLDEN[key].long()
    found = classes.index(torch.arange(len(table)), "x")
    assert torch.equal(torch.where(found == IGNORE, 255, found), table)
    assert classes.index(torch.tensor([255]), "x").item() == IGNORE
    assert len(classes.names) == count


def test_coco_example_and_the_sets_whose_values_are_the_classes() -> None:
    found = LAYOUTS["coco"].classes().index(GOLDEN["coco_fine_example"], "x")
    assert torch.equal(torch.where(found == IGNORE, 255, found), GOLDEN["coco_coarse_example"].long())
    for name, count in (("voc", 21), ("ade20k", 151)):
        classes = LAYOUTS[name].classes()
        assert len(classes.names) == count
        assert torch.equal(classes.index(torch.arange(count), "x"), torch.arange(count))
    with pytest.raises(DatasetError, match=r"x: label id 151 is not in ADE20K, which has ids 0-150"):
        classes.index(torch.tensor([151]), "x")


def test_the_other_layout_of_coco(tmp_path: Path) -> None:
    home = make_coco(tmp_path, IDS["coco"])
    for part in ("images", "annotations"):
        (home / "dataset").mkdir(exist_ok=True)
        (home / part).rename(home / "dataset" / part)
    (home / "curated").rename(home / "currated")
    lists = home / "currated" / "val2017"
    (lists / COCO_LISTS[0]).rename(lists / COCO_LISTS[2])
    assert [path.stem for path in opened(tmp_path)[2].files] == ["000002"] * 2 + ["000001"] * 2


def test_kitti360_reads_lists_of_pairs(tmp_path: Path) -> None:
    home = make_kitti360(tmp_path, IDS["kitti360"])
    pictures = sorted((home / "data_2d_raw").rglob("*.png"))
    labels = [path for path in sorted((home / "data_2d_semantics").rglob("*.png")) if path.stem[-1] != "9"]
    pairs = [
        [path.relative_to(home).as_posix() for path in pair] for pair in zip(pictures, labels, strict=True)
    ]
    (home / "train.json").write_text(json.dumps(pairs[1:3]))
    assert opened(tmp_path)[1].pairs == list(zip(pictures, labels, strict=True))[1:3]
    (home / "train.json").write_text('["a", "b"]')
    with pytest.raises(DatasetError, match=r"train\.json: give a list of"):
        opened(tmp_path)


def remove(pattern: str):
    def damage(root: Path) -> None:
        next(iter(sorted(root.rglob(pattern)))).unlink()

    return damage


def empty_list(root: Path) -> None:
    next(root.rglob("ImageSets/Segmentation/train.txt")).write_text("")


@pytest.mark.parametrize(
    ("name", "damage", "told"),
    [
        ("coco", remove("000001.png"), r"no file .*000001\.png, which .*Coarse\.txt names"),
        ("coco", remove(COCO_LISTS[0]), r"no file .*Coarse\.txt; it names the pictures of train"),
        ("voc", remove("2007_val1.jpg"), r"no file .*2007_val1\.jpg, which .*val\.txt names"),
        ("voc", empty_list, r"train\.txt names no picture"),
        ("voc", remove("train.txt"), r"no file .*train\.txt; expected .*JPEGImages.*http"),
        ("ade20k", remove("ADE_val_00000002.jpg"), r"ADE_val_00000002\.png: no image of that name"),
        ("cityscapes", remove("ulm*labelIds.png"), r"no file .*ulm.*labelIds\.png, the label of"),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, name: str, damage, told: str) -> None:
    MAKERS[name](tmp_path, IDS[name])
    damage(tmp_path)
    with pytest.raises(DatasetError, match=told) as error:
        opened(tmp_path)
    assert "\n" not in str(error.value)
    assert str(error.value).count(LAYOUTS[name].source) == 1


def test_no_layout_or_several(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no folder .*nowhere; expected .*classes\.json, or"):
        find_layout(tmp_path / "nowhere")
    with pytest.raises(
        DatasetError, match=r"holds no data set of segmentation; expected .*classes\.json, or"
    ):
        find_layout(tmp_path)
    for name, layout in LAYOUTS.items():
        told = rf"holds no {layout.title}; expected {re.escape(layout.expected)}: http"
        with pytest.raises(DatasetError, match=told):
            opened(tmp_path, name)
        with pytest.raises(DatasetError, match=r"no folder .*nowhere; expected .*: http"):
            layout.open(tmp_path / "nowhere", "val", allow_incomplete=False)
    make_voc(tmp_path, IDS["voc"])
    make_ade20k(tmp_path, IDS["ade20k"])
    with pytest.raises(DatasetError, match=r"several data sets; choose with --layout: voc, ade20k"):
        find_layout(tmp_path)
    assert opened(tmp_path, "ade20k")[0] == "ade20k"
    with pytest.raises(ValueError, match="no layout 'vox'"):
        find_layout(tmp_path, "vox")


def test_presets_fill_in_what_is_not_given() -> None:
    city = SegmentationProtocol.read({"preset": "naf-cityscapes"})
    assert (city.recipe.lr, city.recipe.epochs, city.size, city.label_size) == (1e-4, 20, 448, 448)
    assert SegmentationProtocol.read({"preset": "naf-coco"}).recipe.epochs == 5
    ratio = SegmentationProtocol.read({"preset": "naf-cityscapes", "size": 224, "lr": 1e-3})
    assert (ratio.recipe.lr, ratio.geometry) == (1e-3, Geometry(224, 448))
    assert ratio.to_dict()["preset"] == "naf-cityscapes"
    assert SegmentationProtocol.read(ratio.to_dict()) == ratio
    plain = SegmentationProtocol.read({})
    assert (plain.recipe, plain.geometry) == (SegmentationProtocol().recipe, Geometry(448))
    for wrong in ({"preset": "naf-nowhere"}, {"mode": "sharpen"}, {"enlarge": 0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            SegmentationProtocol.read(wrong)


def test_a_larger_picture_leaves_labels_as_they_are() -> None:
    image, label = torch.rand(3, 60, 80), torch.zeros(60, 80, dtype=torch.int64)
    for settings, large, same in (
        ({"size": 16}, (32, 32), (16, 16)),
        ({"size": 16, "label_size": 20}, (32, 32), (20, 20)),
        ({"size": (16, 24)}, (32, 48), (60, 80)),
    ):
        found = SegmentationProtocol.read({**settings, "enlarge": 2}).geometry.apply(image, label)
        assert (tuple(found[0].shape[1:]), tuple(found[1].shape)) == (large, same)

"""Segmentation data on disk: what is read, skipped, counted and refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from stored_pictures import png, tiff
from torch import Tensor

import naf_hub
from naf_hub import Backbone
from naf_hub.errors import DatasetError
from naf_hub.labels import IGNORE, read_classes, read_label
from naf_hub.store import FeatureStore
from naf_hub_probing.features import CellStatistics, SplitFeatures, survey
from naf_hub_probing.folders import SegmentationFolder
from naf_hub_probing.pairs import LabelledImage
from naf_hub_probing.transforms import Geometry

CLASSES = {"classes": [{"id": 4, "name": "sky"}, {"id": 7, "name": "road"}], "ignore_index": 255}
CPU = torch.device("cpu")


def write(path: Path, values: object, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, dtype=np.uint8))
    picture.convert(mode or picture.mode).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "classes.json").write_text(json.dumps(CLASSES))
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            write(tmp_path / split / "images" / f"{i}.png", rng.integers(0, 255, (8, 12, 3)))
            write(tmp_path / split / "labels" / f"{i}.png", [[4, 7, 255] * 4] * 8)
    return tmp_path


def folder(root: Path, split: str = "train", **options: object) -> SegmentationFolder:
    classes = read_classes(root / "classes.json")
    return SegmentationFolder(root, split, classes, Geometry((8, 12)), **options)  # pyright: ignore


def test_ids_become_indices_in_the_order_of_the_file(root: Path) -> None:
    sample = folder(root)[0]
    assert sample.image.shape == (3, 8, 12)
    assert 0 <= sample.image.min() < sample.image.max() <= 1
    assert sample.label[0, :3].tolist() == [0, 1, IGNORE]


def test_the_folder_of_results_is_not_searched(root: Path) -> None:
    for part in ("images", "labels"):
        write(root / "train" / part / "out" / "x.png", [[[4, 7, 255] * 4] * 8][0])
    assert len(folder(root)) == 5
    assert len(folder(root, out=root)) == 5
    (root / "train" / "labels" / "out" / "x.png").unlink()
    left = folder(root, out=root / "train" / "images" / "out")
    assert (len(left), left.unlabelled) == (4, 0)


def test_classes_may_be_ignored_by_mark_or_by_list(tmp_path: Path) -> None:
    data = {
        "classes": [{"id": i, "name": f"c{i}", "ignore": i == 2, "color": [0, 0, i]} for i in range(4)],
        "ignore_index": [0, 9],
    }
    (tmp_path / "classes.json").write_text(json.dumps(data))
    classes = read_classes(tmp_path / "classes.json")
    assert classes.names == ("c1", "c3")
    indices = classes.index(torch.tensor([0, 1, 2, 3, 9]), "x")
    assert indices.tolist() == [IGNORE, 0, IGNORE, 1, IGNORE]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting"),
        ("[]", "expected"),
        ('{"names": ["a"]}', "missing key 'classes'"),
        ('{"classes": [{"id": 0}]}', "missing key 'name'"),
        ('{"classes": [{"id": "0", "name": "a"}]}', "class id '0' is not an integer"),
        ('{"classes": [{"id": -1, "name": "a"}]}', "class id -1"),
        ('{"classes": [{"id": 0, "name": "a"}, {"id": 0, "name": "b"}]}', "id appears twice"),
        ('{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "a"}]}', "name appears twice"),
        ('{"classes": [{"id": 0, "name": "a"}, {"id": 1, "name": "b"}], "ignore_index": 1}', "at least two"),
    ],
)
def test_bad_class_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(DatasetError, match=message) as error:
        read_classes(tmp_path / "classes.json")
    assert "classes.json" in str(error.value)


def test_missing_class_file(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"no .*classes\.json"):
        read_classes(tmp_path / "classes.json")


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_label_modes(root: Path, mode: str) -> None:
    path = root / "label.png"
    picture = Image.fromarray(np.array([[4, 7], [255, 4]], dtype=np.uint8))
    if mode == "P":
        picture = picture.copy()
        picture.putpalette(list(range(256)) * 3)
    if mode == "I;16":
        picture = Image.fromarray(np.asarray(picture).astype(np.uint16))
    assert picture.mode == mode
    picture.save(path)
    label = read_label(path, read_classes(root / "classes.json"))
    assert label.tolist() == [[0, 1], [IGNORE, 0]]


@pytest.mark.parametrize(("bits", "suffix"), [(1, "png"), (2, "png"), (4, "png"), (4, "tif"), (16, "tif")])
def test_labels_of_any_depth_hold_the_ids_that_are_stored(tmp_path: Path, bits: int, suffix: str) -> None:
    count = min(2**bits, 300)
    data = {"classes": [{"id": i, "name": f"c{i}"} for i in range(count)]}
    (tmp_path / "classes.json").write_text(json.dumps(data))
    values = np.arange(count)[::-1].reshape(1, -1)
    write_stored = {"png": png, "tif": tiff}[suffix]
    path = tmp_path / f"label.{suffix}"
    path.write_bytes(write_stored(values.astype("<u2" if bits == 16 else np.uint8), bits))
    label = read_label(path, read_classes(tmp_path / "classes.json"))
    assert label.tolist() == values.tolist()


def test_labels_are_turned_like_their_pictures(root: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    rng = np.random.default_rng(0)
    ids = rng.choice([4, 7], (8, 12)).astype(np.uint8)
    image, label = root / "train" / "images" / "0.png", root / "train" / "labels" / "0.png"
    Image.fromarray(np.stack([ids * 30] * 3, -1)).save(image, exif=turned)
    Image.fromarray(ids).save(label, exif=turned)
    sample = SegmentationFolder(root, "train", read_classes(root / "classes.json"), Geometry((12, 8)))[0]
    assert torch.equal(sample.label, torch.from_numpy(np.rot90(ids, -1) == 7).long())
    assert torch.equal(sample.image[0] > 0.6, sample.label == 1)
    Image.fromarray(ids).save(label)
    with pytest.raises(DatasetError, match=r"labels/0\.png: label is 8x12, its image .*0\.png 12x8.*EXIF"):
        folder(root)[0]


def test_colour_labels_are_refused(root: Path) -> None:
    path = write(root / "label.png", np.zeros((2, 2, 3)))
    with pytest.raises(DatasetError, match=r"label\.png: a label must hold one class id .* not RGB"):
        read_label(path, read_classes(root / "classes.json"))


@pytest.mark.parametrize("wrong", [0, 5, 8, 254])
def test_unknown_id_names_file_and_id(root: Path, wrong: int) -> None:
    write(root / "train" / "labels" / "2.png", [[4, 7, wrong] * 4] * 8)
    with pytest.raises(
        DatasetError, match=rf"2\.png: label id {wrong} is not in classes\.json.*4, 7 and 255"
    ):
        folder(root)[2]


def test_folder_errors(root: Path) -> None:
    (root / "train" / "images" / "3.png").unlink()
    with pytest.raises(DatasetError, match=r"labels/3\.png: no image of that name"):
        folder(root)
    with pytest.raises(DatasetError, match=r"no folder .*test"):
        folder(root, "test")
    for path in (root / "val" / "labels").iterdir():
        path.unlink()
    with pytest.raises(DatasetError, match="no picture in"):
        folder(root, "val")


def test_two_images_of_one_name_are_refused(root: Path) -> None:
    write(root / "train" / "images" / "1.jpg", np.zeros((8, 12, 3)))
    with pytest.raises(DatasetError, match="same name"):
        folder(root)


def test_images_without_label_are_left_out_and_counted(root: Path) -> None:
    (root / "train" / "labels" / "0.png").unlink()
    left = folder(root)
    assert (len(left), left.unlabelled) == (3, 1)


def test_subfolders_pair_up(root: Path) -> None:
    write(root / "train" / "images" / "town" / "0.jpg", np.zeros((8, 12, 3)))
    write(root / "train" / "labels" / "town" / "0.png", np.full((8, 12), 4))
    assert folder(root).pairs[-1][1] == root / "train" / "labels" / "town" / "0.png"


def test_image_and_label_of_different_shape_are_refused(root: Path) -> None:
    write(root / "train" / "images" / "0.png", np.zeros((12, 8, 3)))
    with pytest.raises(DatasetError, match=r"0\.png: label is 8x12, its image .*0\.png 12x8"):
        folder(root)[0]


def test_limit_is_evenly_spaced(root: Path) -> None:
    assert [pair[0].stem for pair in folder(root, limit=2).pairs] == ["0", "2"]
    assert len(folder(root, limit=99)) == 4


class Mean(Backbone):
    """One cell of RGB means; counts its calls."""

    def __init__(self) -> None:
        super().__init__(embed_dim=3, patch_size=4, mean=(0.0,) * 3, std=(1.0,) * 3)
        self.calls = 0

    def extract(self, image: Tensor) -> Tensor:
        self.calls += len(image)
        return torch.nn.functional.avg_pool2d(image, 4)


def gathered(backbone: Backbone, precision: str, expected: int = 4) -> SplitFeatures:
    return SplitFeatures(FeatureStore(precision, expected, CPU), backbone, naf_hub.load("nearest"))


def test_survey_skips_and_counts_broken_pictures(root: Path) -> None:
    path = root / "train" / "images" / "1.png"
    path.write_bytes(path.read_bytes()[:40])
    (root / "train" / "labels" / "2.png").write_bytes(b"no picture")
    backbone = Mean()
    cache = gathered(backbone, "auto")
    seen = survey(folder(root), "train", cache)
    assert seen.usable == [0, 3]
    assert len(seen.skipped) == 2
    assert "1.png" in seen.skipped[0]
    assert "2.png" in seen.skipped[1]
    assert seen.pixels.tolist() == [64, 64]
    features = torch.cat([backbone(folder(root)[i].image[None]) for i in (0, 3)]).transpose(0, 1).flatten(1)
    torch.testing.assert_close(seen.moments[0].float(), features.mean(1))
    torch.testing.assert_close(seen.moments[1].float(), features.std(1, correction=0))


def test_nothing_readable_or_labelled_is_an_error(root: Path) -> None:
    for path in (root / "val" / "labels").iterdir():
        write(path, np.full((8, 12), 255))
    with pytest.raises(DatasetError, match="no labelled pixel in val"):
        survey(folder(root, "val"), "val", gathered(Mean(), "float32"))
    for path in (root / "val" / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(DatasetError, match="no readable pair in val"):
        survey(folder(root, "val"), "val", gathered(Mean(), "float32"))


@pytest.mark.parametrize(("precision", "calls"), [("float32", 4), ("float16", 4), ("off", 8), ("auto", 4)])
def test_cache_runs_the_backbone_once_a_picture_and_side(precision: str, calls: int) -> None:
    backbone = Mean()
    cache = gathered(backbone, precision)
    samples = [LabelledImage(i, torch.rand(3, 8, 12), torch.zeros(8, 12, dtype=torch.long)) for i in range(2)]
    first = [cache("train", samples, flipped) for flipped in (False, True)]
    again = [cache("train", samples[::-1], flipped) for flipped in (False, True)]
    assert backbone.calls == calls
    tolerance = 1e-3 if precision == "float16" else 0
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other.flip(0), atol=tolerance, rtol=tolerance)
        assert other.dtype == torch.float32
    torch.testing.assert_close(first[1], first[0].flip(-1))


def test_cache_that_does_not_fit_is_switched_off() -> None:
    cache = gathered(Mean(), "auto", 10**12)
    cache("train", [LabelledImage(0, torch.rand(3, 8, 12), torch.zeros(8, 12))])
    assert cache.store.precision == "off"
    assert not cache.store.kept


def test_cell_statistics_are_means_deviations_and_position() -> None:
    image = torch.rand(1, 3, 32, 48)
    features = CellStatistics()(image)[0]
    assert features.shape == (11, 2, 3)
    cell = image[0, :, 16:32, 32:48].flatten(1)
    torch.testing.assert_close(features[:3, 1, 2], cell.mean(1))
    torch.testing.assert_close(features[3:6, 1, 2], cell.std(1, correction=0))
    assert features[6:, 1, 2].tolist() == [1, 1, 1, 1, 1]
    assert features[6:, 0, 1].tolist() == [0, -1, 0, 1, 0]

"""``naf-hub eval video``: from a folder of frames to figures, masks on disk and pictures."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from reconstruction_world import BACKBONE

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.errors import DatasetError, ImageError
from naf_hub.image_files import RESULTS_MARKER, search_images
from naf_hub.reports import Report
from naf_hub.result_folder import claim_folder
from naf_hub_video import video_segmentation
from naf_hub_video.davis import Video, find_videos
from naf_hub_video.mask_strips import overlaid
from naf_hub_video.video_segmentation import VideoSegmentation

SIZE = (64, 96)
SETTINGS = {"size": 64, "factor": 4, "topk": 5, "radius": 8}


def write_video(root: Path, name: str, start: int, count: int = 5, values: tuple[int, ...] = (1, 2)) -> None:
    """A red square that moves down and a blue bar that stays, on noise of green; ids as ``values``."""
    noise = np.random.default_rng(start).integers(90, 130, (*SIZE, 1))
    frames, masks = root / "JPEGImages" / "480p" / name, root / "Annotations" / "480p" / name
    frames.mkdir(parents=True)
    masks.mkdir(parents=True)
    for number in range(count):
        pixels = (noise * np.array([0.4, 1.0, 0.5])).astype(np.uint8)
        mask = np.zeros(SIZE, dtype=np.uint8)
        where = slice(start + 2 * number, start + 2 * number + 24), slice(10, 40)
        pixels[where], mask[where] = (220, 40, 30), values[0]
        if len(values) > 1:
            pixels[8:56, 70:88], mask[8:56, 70:88] = (30, 50, 220), values[1]
        Image.fromarray(pixels).save(frames / f"{number:05d}.png")
        Image.fromarray(mask).save(masks / f"{number:05d}.png")


@pytest.fixture
def data(tmp_path: Path, install_plugin) -> Path:
    install_plugin("tiny-plugin", BACKBONE)
    root = tmp_path / "davis"
    write_video(root, "one", 8)
    write_video(root, "two", 14)
    return root


def evaluate(data: Path, contenders, protocol=SETTINGS, **more) -> Report:
    return VideoSegmentation().evaluate(
        contenders, data, protocol, backbone="tiny_backbone", progress=False, **more
    )


def test_the_command_from_a_folder_to_figures_masks_and_pictures(data, tmp_path):
    settings = [text for key, value in SETTINGS.items() for text in (f"--{key}", str(value))]
    names = ["--upsampler", "nearest", "--upsampler", "joint_bilateral", "--control", "grey"]
    places = ["--out", str(tmp_path / "out"), "--picture", str(tmp_path / "strips")]
    command = [
        "eval",
        "video",
        "--backbone",
        "tiny_backbone",
        "--data",
        str(data),
        *settings,
        *names,
        *places,
    ]
    result = CliRunner().invoke(cli, [*command, "--json"])
    assert result.exit_code == 0, result.output
    report = Report.from_json(result.stdout)
    found = {row.label: row.values for row in report.rows}
    assert list(found) == ["nearest", "joint_bilateral", "joint_bilateral (grey)"]
    assert found["joint_bilateral"]["jf_mean"] > found["nearest"]["jf_mean"] + 3
    assert found["joint_bilateral"]["jf_mean"] > found["joint_bilateral (grey)"]["jf_mean"] + 3
    assert found["joint_bilateral"]["j_mean"] > 80
    assert report.data["objects"] == 4
    assert report.protocol["radius"] == 8
    for label in ("nearest", "joint_bilateral", "joint_bilateral-grey"):
        stored = Image.open(tmp_path / "out" / label / "two" / "00003.png")
        assert stored.mode == "P"
        assert set(np.unique(np.array(stored))) == {0, 1, 2}
    sheet = Image.open(tmp_path / "strips" / "one.png")
    assert sheet.width // 320 == 4, "frames"
    assert sheet.height // round(320 * SIZE[0] / SIZE[1]) == 4, "the truth and three upsamplers"
    again = CliRunner().invoke(cli, [*command, "--json"])
    assert Report.from_json(again.stdout).rows == report.rows


def test_a_strip_says_its_unit_and_which_mask_was_given(data, tmp_path, monkeypatch):
    drawn: list[list[str]] = []
    monkeypatch.setattr(video_segmentation, "draw_strips", lambda _, strips, path: drawn.append([*strips]))
    report = evaluate(data, "nearest", {**SETTINGS, "videos": ["one"]}, picture=tmp_path)
    score = report.rows[0].values["jf_mean"]
    assert drawn == [["true masks, frame 00000", f"nearest: J&F {score:.1f} %, mask given"]]


def test_an_interrupted_evaluation_goes_on_and_never_mixes(data, tmp_path, monkeypatch):
    out = tmp_path / "out"
    whole = evaluate(data, "bilinear")
    evaluate(data, "bilinear", {**SETTINGS, "videos": ["one"]}, out=out)
    read: list[str] = []
    real = Video.read_frame
    monkeypatch.setattr(Video, "read_frame", lambda self, *a: read.append(self.name) or real(self, *a))
    resumed = evaluate(data, "bilinear", out=out)
    assert set(read) == {"two"}
    assert resumed.rows == whole.rows
    with pytest.raises(
        FileExistsError, match=r"one was made with another protocol: give --out another folder"
    ):
        evaluate(data, "bilinear", {**SETTINGS, "radius": 4}, out=out)
    (data / "JPEGImages" / "480p" / "one" / "00001.png").touch()
    with pytest.raises(FileExistsError, match="one was made with other files: give"):
        evaluate(data, "bilinear", out=out)
    with pytest.raises(FileExistsError, match="one was made with other files and another protocol: give"):
        evaluate(data, "bilinear", {**SETTINGS, "radius": 4}, out=out)
    shutil.rmtree(out / "bilinear" / "one")
    (out / "bilinear" / "one").mkdir()
    with pytest.raises(FileExistsError, match="holds no masks"):
        evaluate(data, "bilinear", out=out)


def test_a_folder_of_the_user_stays_as_it_is(data, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "cat.png").write_bytes(b"mine")
    with pytest.raises(
        FileExistsError, match=r"photos is not empty \(cat.png\) and holds no results of video"
    ):
        evaluate(data, "nearest", out=photos)
    assert [path.name for path in photos.iterdir()] == ["cat.png"]
    out = tmp_path / "out"
    evaluate(data, "nearest", {**SETTINGS, "videos": ["one"], "length": 3}, out=out)
    assert not search_images([data, tmp_path]).images.keys() & set(out.rglob("*")), "masks are no photos"
    (out / "notes.txt").write_text("mine")
    (out / RESULTS_MARKER).unlink()  # as before there was one
    evaluate(data, "nearest", {**SETTINGS, "videos": ["one"], "length": 3}, out=out)
    assert (out / RESULTS_MARKER).is_file()
    with pytest.raises(FileExistsError, match="out holds results of video_segmentation, not of depth: give"):
        claim_folder(out, "depth", lambda folder: True)


def test_features_are_upsampled_once_a_frame_and_shared(data):
    class Counting(naf_hub.Upsampler):
        guides: ClassVar[list[tuple[int, ...]]] = []

        def upsample(self, image, features, output_size):
            self.guides.append((*image.shape[-2:], *output_size))
            return torch.nn.functional.interpolate(features, output_size)

    backbone = naf_hub.load_backbone("tiny_backbone")
    type(backbone).calls = 0
    models = {"a": Counting(), "b": Counting()}
    VideoSegmentation().evaluate(models, data, SETTINGS, backbone=backbone, progress=False)
    assert type(backbone).calls == 10
    assert Counting.guides == [(32, 32, 32, 32)] * 20
    Counting.guides.clear()
    evaluate(data, models, {**SETTINGS, "guidance": "frame", "videos": ["one"]})
    assert set(Counting.guides) == {(64, 64, 32, 32)}
    Counting.guides.clear()
    evaluate(data, models, {"preset": "code", "videos": ["one"]})
    assert set(Counting.guides) == {(8, 12, 8, 12)}, "each video's own size, not squashed"


def test_another_picture_is_one_of_another_video(data):
    """The frame before would be nearly the same: its guidance would be right."""
    seen: list[torch.Tensor] = []

    class Looking(naf_hub.Upsampler):
        def upsample(self, image, features, output_size):
            seen.append(image)
            return torch.nn.functional.interpolate(features, output_size)

    evaluate(data, {"looking": Looking()}, {**SETTINGS, "length": 3}, controls=["other"])
    own, strange = seen[:3], seen[3:6]
    assert all(torch.equal(strange[0], one) for one in strange)
    torch.testing.assert_close(strange[0], seen[6])  # the first frame of the second video, which is next
    assert not torch.allclose(own[0], strange[0], atol=0.1)


def test_masks_of_davis_2016_and_void(tmp_path):
    write_video(tmp_path, "single", 8, values=(255,))
    write_video(tmp_path, "void", 8, values=(1, 255))
    single, void = (video.read_masks() for video in find_videos(tmp_path))
    assert set(np.unique(single)) == {0, 1}
    np.testing.assert_array_equal(single, void)


def test_videos_are_those_that_are_listed_or_named(data):
    assert [video.name for video in find_videos(data)] == ["one", "two"]
    (data / "ImageSets" / "2017").mkdir(parents=True)
    (data / "ImageSets" / "2017" / "val.txt").write_text("two\n\n")
    assert [video.name for video in find_videos(data)] == ["two"]
    assert [video.name for video in find_videos(data, ["one"])] == ["one"]
    assert len(find_videos(data, length=3)[0].frames) == 3
    data.rename(data.parent / "DAVIS")
    assert [video.name for video in find_videos(data.parent)] == ["two"]
    with pytest.raises(DatasetError, match=r"no video 'three' in .*; there are: one, two"):
        find_videos(data.parent, ["three"])
    (data.parent / "DAVIS" / "ImageSets" / "2017" / "val.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(DatasetError, match=r"val\.txt: no text"):
        find_videos(data.parent)


def test_an_object_too_small_for_the_grid_is_told(data):
    folder = data / "Annotations" / "480p" / "one"
    for path in folder.iterdir():
        mask = np.array(Image.open(path))
        mask[0, 0] = 3
        Image.fromarray(mask).save(path)
    report = evaluate(data, "nearest", {**SETTINGS, "length": 3})
    assert report.data["lost"] == {"one": [3], "two": []}
    assert report.data["objects"] == 5
    assert report["nearest"].extras["videos"]["one"]["j_mean"] < 70


def test_what_is_wrong_with_the_data_is_one_line(data):
    frames, masks = data / "JPEGImages" / "480p" / "two", data / "Annotations" / "480p" / "two"

    def wrong(error, words):
        with pytest.raises(error, match=words):
            evaluate(data, "nearest")

    kept = (masks / "00002.png").read_bytes()
    Image.new("L", (9, 9)).save(masks / "00002.png")
    wrong(DatasetError, "00002.png is 9x9 pixels, the first mask of its video 64x96")
    Image.new("RGB", SIZE[::-1]).save(masks / "00002.png")
    wrong(DatasetError, r"00002.png is a picture of mode RGB; masks are grey or of a palette")
    (masks / "00002.png").write_bytes(kept)
    shutil.copy(masks / "00000.png", data / "first")
    Image.new("L", SIZE[::-1]).save(masks / "00000.png")
    wrong(DatasetError, "00000.png: no object in the first frame")
    shutil.copy(data / "first", masks / "00000.png")
    (frames / "00003.png").write_bytes(b"no picture")
    wrong(ImageError, "two/00003.png: not an image file")
    Image.new("RGB", (9, 9)).save(frames / "00003.png")
    wrong(DatasetError, "00003.png is 9x9 pixels, the masks of its video are 64x96")
    (frames / "00001.png").rename(data / "frame")
    wrong(DatasetError, r"no frame .*two/00001.jpg of the mask .*two/00001.png; expected DATA/JPEGImages")
    (data / "frame").rename(frames / "00001.png")
    (masks / "00004.png").unlink()
    wrong(DatasetError, r"no mask .*two/00004.png; expected DATA/JPEGImages/480p/VIDEO")
    for folder in (frames, masks):
        for path in sorted(folder.iterdir())[2:]:
            path.unlink()
    wrong(DatasetError, "two has 2 frames; at least 3 are needed")
    shutil.rmtree(data / "Annotations")
    wrong(DatasetError, r"no folder .*Annotations/480p; expected .* https://davischallenge.org")


def test_a_mask_is_tinted_and_outlined():
    mask = np.zeros((20, 30), dtype=np.uint8)
    mask[6:14, 8:14], mask[6:14, 14:22] = 1, 2
    drawn = np.asarray(overlaid(Image.new("RGB", (30, 20), (100, 100, 100)), mask))
    assert (drawn[0, 0] == 100).all()
    assert (drawn[10, 11] == [185, 45, 45]).all()
    assert (drawn[10, 18] == [45, 185, 45]).all()
    assert (drawn[10, 7:9] == 255).all(), "where the object begins"
    assert (drawn[10, 13:15] == 255).all(), "and where two meet"


def test_a_file_that_is_not_ours_stays(data, tmp_path):
    (tmp_path / "one.png").write_bytes(b"mine")
    with pytest.raises(FileExistsError, match=r"one\.png exists and is no picture of masks"):
        evaluate(data, "nearest", picture=tmp_path)
    assert (tmp_path / "one.png").read_bytes() == b"mine"
    with pytest.raises(ValueError, match="needs a backbone"):
        VideoSegmentation().evaluate("nearest", data)

"""Every common kind of picture becomes RGB in [0, 1]; broken files are told by name."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from PIL import Image
from PIL import features as pillow_features
from stored_pictures import PHOTOMETRIC, png, tiff

import naf_hub
from naf_hub.image_files import find_images
from naf_hub.images import as_batch, open_image, read_image, to_rgb


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (6, 9, 3), dtype=np.uint8)


def test_rgb_values_and_layout(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png")
    assert image.dtype == torch.float32
    assert torch.equal(image, torch.from_numpy(rgb).permute(2, 0, 1).float() / 255)


def test_exif_orientation_is_applied(tmp_path, rgb):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    expected = torch.from_numpy(np.rot90(rgb, -1).copy()).permute(2, 0, 1).float() / 255
    assert torch.equal(read_image(tmp_path / "a.png"), expected)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_modes(tmp_path, rgb, mode):
    suffix = "tif" if mode in ("CMYK", "YCbCr", "HSV") else "png"
    picture = Image.fromarray(rgb).convert(mode) if mode != "HSV" else Image.fromarray(rgb)
    picture.save(tmp_path / f"a.{suffix}")
    try:
        Image.open(tmp_path / f"a.{suffix}").load()
    except OSError:
        pytest.skip(f"this Pillow cannot read the {mode} {suffix} that it wrote (12.3 cannot)")
    image = read_image(tmp_path / f"a.{suffix}")
    assert tuple(image.shape) == (3, 6, 9)
    assert image.min() >= 0
    assert image.max() <= 1
    reference = torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).permute(2, 0, 1).float() / 255
    assert (image - reference).abs().max() < 0.02


def test_transparency_lies_over_white(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "a.png")
    assert torch.equal(read_image(tmp_path / "a.png"), torch.ones(3, 4, 4))
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([0, 0, 0, 255, 255, 255])
    palette.save(tmp_path / "p.png", transparency=0)
    assert torch.equal(read_image(tmp_path / "p.png"), torch.ones(3, 4, 4))


def test_sixteen_bits_keep_their_precision(tmp_path):
    values = np.array([[0, 1, 257], [32768, 65534, 65535]], dtype=np.uint16)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        image = read_image(tmp_path / f"a.{suffix}")
        assert torch.allclose(image[1], torch.from_numpy(values.astype(np.float32)) / 65535, atol=1e-7)


def test_broken_files_are_named(tmp_path, rgb):
    good = tmp_path / "good.jpg"
    Image.fromarray(rgb.repeat(40, 0).repeat(40, 1)).save(good)
    data = good.read_bytes()
    for name, content in {
        "cut.jpg": data[: len(data) // 2],
        "text.jpg": b"not an image",
        "empty.png": b"",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(naf_hub.ImageError, match=name):
            read_image(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_image(tmp_path / "nowhere.jpg")


def test_finding_files_folders_and_globs(tmp_path, rgb):
    for name in ("b.png", "a.PNG", "sub/c.jpg", "sub/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        if name.endswith("txt"):
            (tmp_path / name).write_text("x")
        else:
            Image.fromarray(rgb).save(
                tmp_path / name, format="PNG" if name.lower().endswith("png") else "JPEG"
            )
    names = [p.relative_to(tmp_path).as_posix() for p in find_images([tmp_path])]
    assert names == ["a.PNG", "b.png", "sub/c.jpg"]
    assert [p.name for p in find_images([tmp_path / "*.png", tmp_path / "b.png"])] == ["b.png"]
    assert [p.name for p in find_images([tmp_path / "**/*.jpg"])] == ["c.jpg"]
    for nothing in (tmp_path / "no/*.png", tmp_path / "missing.png"):
        with pytest.raises(FileNotFoundError, match="no image at"):
            find_images([nothing])


def test_as_batch_takes_tensor_picture_and_path(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    path = str(tmp_path / "a.png")
    batch = as_batch(path)
    assert torch.equal(as_batch(Image.open(path)), batch)
    assert torch.equal(as_batch(batch[0]), batch)
    assert as_batch(batch) is batch
    with pytest.raises(TypeError, match="tensor, a PIL image or a path"):
        as_batch(3)


def test_arrays_bytes_and_lists_are_taken(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png")
    batch = as_batch(tmp_path / "a.png")
    assert torch.equal(as_batch(rgb), batch)
    assert torch.equal(as_batch(rgb.astype(np.float32) / 255), batch)
    assert torch.equal(as_batch((tmp_path / "a.png").read_bytes()), batch)
    assert torch.equal(as_batch(torch.from_numpy(rgb).permute(2, 0, 1)), batch)
    assert torch.equal(as_batch([rgb, tmp_path / "a.png"]), batch.repeat(2, 1, 1, 1))
    assert torch.equal(as_batch(rgb[None].repeat(2, 0)), batch.repeat(2, 1, 1, 1))
    assert as_batch(rgb[..., 0]).shape == as_batch(rgb[..., :1]).shape == (1, 3, 6, 9)
    opaque = np.concatenate([rgb, np.full((6, 9, 1), 255, np.uint8)], -1)
    assert torch.allclose(as_batch(opaque), batch)
    assert torch.equal(as_batch(opaque * np.array([1, 1, 1, 0], np.uint8)), torch.ones(1, 3, 6, 9))
    deep = (rgb.astype(np.uint16) * 257).astype(np.uint16)
    assert torch.allclose(as_batch(deep), batch)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (np.zeros((3, 6, 9), np.float32), "channels first"),
        (np.zeros((6, 9, 3), np.int64), "uint8 or uint16"),
        ("https://example.org/cat.jpg", "not fetched"),
        ([], "list of images is empty"),
        ([np.zeros((4, 4), np.uint8), np.zeros((5, 4), np.uint8)], "one size, got 4x4, 5x4"),
        (b"no picture", "not an image"),
    ],
)
def test_what_is_no_image_is_told_in_one_line(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message) as told:
        as_batch(wrong)
    assert "\n" not in str(told.value)


def test_every_door_takes_what_as_batch_takes(rgb):
    upsampler, backbone = naf_hub.load("bilinear"), naf_hub.load_backbone("pico")
    picture = Image.fromarray(rgb.repeat(8, 0)[:48].repeat(8, 1)[:, :64])
    batch = as_batch(picture)
    features = backbone(batch)
    for image in (picture, np.asarray(picture), [picture], (batch[0] * 255).round().byte()):
        assert torch.equal(backbone(image), features)
        assert torch.equal(upsampler(image, features), upsampler(batch, features))
        assert torch.equal(naf_hub.load("bilinear", backbone)(image), upsampler(batch, features))


def test_a_search_leaves_out_what_is_hidden_and_follows_links_once(tmp_path, rgb):
    picture = Image.fromarray(rgb)
    (tmp_path / "in" / ".Trashes").mkdir(parents=True)
    (tmp_path / "store").mkdir()
    for name in ("in/a.jpg", "in/.Trashes/x.jpg", "store/b.jpe"):
        picture.save(tmp_path / name, "JPEG")
    (tmp_path / "in" / "._a.jpg").write_bytes(b"resource fork")
    (tmp_path / "in" / "more").symlink_to(tmp_path / "store")
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "again").symlink_to(tmp_path / "store")
    assert sorted(p.name for p in find_images([tmp_path / "in"])) == ["a.jpg", "b.jpe"]
    assert [p.name for p in find_images([tmp_path / "in"], without=[tmp_path / "store"])] == ["a.jpg"]
    assert find_images([tmp_path / "in" / "._a.jpg"]), "what is named outright is tried"


def test_every_format_of_pillow_is_found_and_unreadable_photos_are_told(tmp_path, rgb, caplog):
    kinds = {"a.avif": "AVIF", "b.jfif": "JPEG", "c.webp": "WEBP", "d.tga": "TGA"}
    if not pillow_features.check("avif"):  # Pillow before 11.3
        del kinds["a.avif"]
    for name, kind in kinds.items():
        Image.fromarray(rgb).save(tmp_path / name, kind)
    (tmp_path / "e.heic").write_bytes(b"x")
    assert [p.name for p in find_images([tmp_path])] == list(kinds)
    assert "left out: 1 photos that Pillow needs a plugin for" in caplog.text


def test_patterns_in_folders_with_brackets(tmp_path, rgb):
    folder = tmp_path / "pics [2024]"
    folder.mkdir()
    Image.fromarray(rgb).save(folder / "a.png")
    assert [p.name for p in find_images([folder / "*.png"])] == ["a.png"]
    assert [p.name for p in find_images([tmp_path / "*" / "[ab].png"])] == ["a.png"]


def test_special_files_do_not_hang(tmp_path):
    os.mkfifo(tmp_path / "f.jpg")
    with pytest.raises(naf_hub.ImageError, match=r"f\.jpg: not a regular file"):
        read_image(tmp_path / "f.jpg")


def test_large_photos_have_a_stated_limit_and_a_switch(tmp_path, monkeypatch):
    Image.new("1", (12000, 8000)).save(tmp_path / "large.png")  # 96 megapixels, which Pillow warns of
    assert open_image(tmp_path / "large.png").size == (12000, 8000)
    monkeypatch.setenv("NAF_HUB_MAX_PIXELS", "1000000")
    with pytest.raises(naf_hub.ImageError, match=r"12000x8000 is more than 1,000,000 pixels.*=96000000"):
        open_image(tmp_path / "large.png")
    monkeypatch.setenv("NAF_HUB_MAX_PIXELS", "many")
    with pytest.raises(naf_hub.ImageError, match="no positive number"):
        open_image(tmp_path / "large.png")


GREY = np.arange(0, 256, 15, dtype=np.uint8).reshape(3, 6)  # 17 x 15 = 255
COLOUR = np.stack([GREY, 255 - GREY, GREY // 2], -1)
FADED = np.concatenate([COLOUR, GREY[..., None]], -1)
OVER_WHITE = COLOUR * (GREY[..., None] / 255.0) + 255 - GREY[..., None]
# File, and its view in 8 bits.
STORED = {
    "grey 16": (tiff(GREY.astype("<u2") * 257, 16), GREY),
    "grey 16, white is zero": (tiff((255 - GREY).astype("<u2") * 257, 16, {PHOTOMETRIC: 0}), GREY),
    "grey 8, white is zero": (tiff(255 - GREY, 8, {PHOTOMETRIC: 0}), GREY),
    "colour 16": (tiff(COLOUR.astype("<u2") * 257, 16), COLOUR),
    "colour 16 and alpha": (tiff(FADED.astype("<u2") * 257, 16), OVER_WHITE),
    "grey 8 and alpha": (tiff(FADED[..., [0, 3]], 8), OVER_WHITE[..., 0]),
    "integers of 32 bits": (tiff(GREY.astype("<i4") * 257, 32), GREY),
    "floats": (tiff(GREY.astype("<f4") / 255, 32), GREY),
    "floats that overshoot": (tiff(GREY.astype("<f4") / 255 * 1.04 - 0.02, 32), None),
    "grey 4": (tiff(GREY // 17, 4), GREY // 17 * 17),
    "grey 2": (png(GREY // 85, 2), GREY // 85 * 85),
    "1 bit": (tiff(GREY // 128, 1), GREY // 128 * 255),
    "PNG, colour 16": (png(COLOUR.astype(">u2") * 257, 16), COLOUR),
    "PNG, grey 16, transparent 0": (png(GREY.astype(">u2") * 257, 16, (0,)), np.where(GREY, GREY, 255)),
    "PNG, grey 4, transparent 3": (
        png(GREY // 17, 4, (3,)), np.where(GREY // 17 == 3, 255, GREY // 17 * 17)
    ),
    "PNG, colour 16, transparent": (
        png(COLOUR.astype(">u2") * 257, 16, tuple(COLOUR[1, 2].astype(int) * 257)),
        np.where((COLOUR[1, 2] == COLOUR).all(-1, keepdims=True), 255, COLOUR),
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", STORED)
def test_every_depth_looks_as_in_a_viewer(what, tmp_path):
    data, view = STORED[what]
    (tmp_path / "picture").write_bytes(data)
    if view is None:
        view = (GREY / 255 * 1.04 - 0.02).clip(0, 1) * 255
    expected = np.broadcast_to(view[..., None] if view.ndim == 2 else view, (3, 6, 3))
    seen = read_image(tmp_path / "picture").permute(1, 2, 0).numpy() * 255
    assert np.abs(seen - expected).max() < 0.51


PILLOW_MODES = ["1", "L", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "LA", "PA", "RGBX", "RGBa",
                "La", "I;16", "I;16L", "I;16B", "I;16N"]  # fmt: skip


@pytest.mark.parametrize("mode", PILLOW_MODES)
def test_every_mode_of_pillow_looks_as_its_8_bit_view(mode):
    """Flat colours, which every mode can hold: the view is the picture they were made of."""
    for value in (0, 255):
        plain = Image.new("RGB", (4, 3), (value,) * 3)
        if mode.startswith("I"):
            picture = Image.new(mode, plain.size, value * 257)
        elif mode == "F":
            picture = Image.new(mode, plain.size, value / 255)
        elif mode == "LAB":
            picture = Image.new(mode, plain.size, (value, 128, 128))
        else:
            steps = {"La": ["LA"], "RGBa": ["RGBA"], "PA": ["P"]}.get(mode, [])
            picture = plain
            for step in [*steps, mode]:
                picture = picture.convert(step)
        assert picture.mode == mode
        assert np.abs(to_rgb(picture) * 255 - value).max() <= 2, value


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.array([[0, 70000]], "<i4"), "32-bit integers beyond 0 to 65535"),
        (np.array([[0, 255]], "<f4"), "floats with values outside"),
        (np.array([[0, np.nan]], "<f4"), "floats with values outside"),
    ],
)
def test_values_without_an_agreed_range_are_refused(values, message, tmp_path):
    (tmp_path / "a.tif").write_bytes(tiff(values, 32))
    with pytest.raises(naf_hub.ImageError, match=rf"a\.tif: {message}"):
        read_image(tmp_path / "a.tif")


def test_damaged_exif_data_turns_nothing(tmp_path, rgb):
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff")
    assert read_image(tmp_path / "a.png").shape == (3, 6, 9)


def test_a_picture_that_will_not_fit_is_told_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("1", (12000, 8000)).save(tmp_path / "large.png")
    monkeypatch.setenv("NAF_HUB_MEMORY", "1GiB")
    with pytest.raises(naf_hub.NafHubError, match=r"large\.png: 12000x8000 pixels needs about 2\.9 GiB"):
        open_image(tmp_path / "large.png")

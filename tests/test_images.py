"""Every common kind of picture becomes RGB in [0, 1]; broken files are told by name."""

from __future__ import annotations

import os
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import naf_hub
from naf_hub.image_files import find_images
from naf_hub.images import as_batch, open_image, read_image


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
        ([], "tensor, a PIL image or a path"),
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
    for name, kind in (("a.avif", "AVIF"), ("b.jfif", "JPEG"), ("c.webp", "WEBP"), ("d.tga", "TGA")):
        Image.fromarray(rgb).save(tmp_path / name, kind)
    (tmp_path / "e.heic").write_bytes(b"x")
    assert [p.name for p in find_images([tmp_path])] == ["a.avif", "b.jfif", "c.webp", "d.tga"]
    assert "1 photos left out (.heic)" in caplog.text


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


def test_sixteen_bit_grey_with_a_transparent_value_lies_over_white(tmp_path):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = np.zeros((4, 4), ">u2")
    rows[2:] = 30000
    header = struct.pack(">IIBBBBB", 4, 4, 16, 0, 0, 0, 0)
    lines = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = chunk(b"IHDR", header) + chunk(b"tRNS", struct.pack(">H", 0)) + chunk(b"IDAT", lines)
    (tmp_path / "g.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b""))
    image = read_image(tmp_path / "g.png")
    assert (image[:, :2] == 1).all()
    assert torch.allclose(image[:, 2:], torch.full((3, 2, 4), 30000 / 65535))

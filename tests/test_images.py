"""Every common kind of picture becomes RGB in [0, 1]; broken files are told by name."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import naf_hub
from naf_hub.images import as_batch, find_images, read_image


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

"""Values that are no images, sizes, devices or files are told as what they are, in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.image_sizes import parse_image_size
from naf_hub.images import as_batch


@pytest.mark.parametrize("images", [[], ()])
def test_no_images(images):
    with pytest.raises(ValueError, match=r"of images is empty; give at least one"):
        as_batch(images)


@pytest.mark.parametrize("size", ["99999999", "448x99999999"])
def test_a_size_that_is_too_large(size):
    with pytest.raises(ValueError, match="is too large"):
        parse_image_size(size)


def test_no_features():
    with pytest.raises(TypeError, match=r"features must be a tensor .* got str"):
        naf_hub.pca_picture("x")


def test_no_device():
    with pytest.raises(ValueError, match=r"^device 'qqq': give cpu, cuda, cuda:1 or mps$"):
        naf_hub.load("bilinear", device="qqq")


def test_a_picture_is_no_torch_file(tmp_path: Path):
    Image.new("RGB", (8, 8)).save(tmp_path / "a.jpg")
    result = CliRunner().invoke(cli, ["convert", str(tmp_path / "a.jpg"), "-o", str(tmp_path / "w")])
    assert result.exit_code == 1
    assert result.output.endswith("it is no file of torch.save, or a damaged one\n")
    assert "torch.load" not in result.output


def test_an_export_is_called_onnx(tmp_path: Path):
    result = CliRunner().invoke(cli, ["export", "naf", "--channels", "8", "-o", str(tmp_path / "c.txt")])
    assert result.exit_code == 2
    assert "must end in .onnx" in result.output

"""Backbone and upsampler together."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image

import naf_hub


class Cells(naf_hub.Backbone):
    """Mean colour of each cell, so that a test can tell where features come from."""

    def __init__(self) -> None:
        super().__init__(embed_dim=3, patch_size=4, mean=(0, 0, 0), std=(1, 1, 1))
        self.scale = torch.nn.Parameter(torch.ones(()))

    def extract(self, image: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(image, 4) * self.scale


def test_tensor_picture_and_path_agree(tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (24, 32, 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    model = naf_hub.load("bilinear", backbone=Cells())
    from_path = model(str(tmp_path / "a.png"))
    assert tuple(from_path.shape) == (1, 3, 24, 32)
    assert torch.equal(model(Image.open(tmp_path / "a.png")), from_path)
    assert tuple(model.low_res(tmp_path / "a.png").shape) == (1, 3, 6, 8)
    assert tuple(model(tmp_path / "a.png", (5, 7)).shape) == (1, 3, 5, 7)


def test_it_is_an_ordinary_module():
    model = naf_hub.load("naf", backbone=Cells(), weights=None, dim=32, num_blocks=1, kernel_size=3)
    image = torch.rand(2, 3, 16, 20)
    with torch.no_grad():
        expected = model(image)
        assert torch.equal(copy.deepcopy(model)(image), expected)
        exported = torch.export.export(model, (image,)).module()(image)
    assert torch.allclose(exported, expected, atol=1e-5)
    assert not model.training
    assert model.double()(image.double()).dtype == torch.float64


def test_a_half_precision_backbone_still_gives_the_images_dtype():
    model = naf_hub.load("bilinear", backbone=Cells().bfloat16())
    assert model(torch.rand(1, 3, 16, 16)).dtype == torch.float32


def test_default_pair_works_with_no_network():
    model = naf_hub.load("naf", backbone="pico")
    image = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        features = model(image)
    assert tuple(features.shape) == (1, model.backbone.embed_dim, 64, 96)


def test_bad_images_are_told(tmp_path):
    model = naf_hub.load("bilinear", backbone=Cells())
    (tmp_path / "x.jpg").write_bytes(b"no image")
    with pytest.raises(naf_hub.ImageError, match=r"x\.jpg"):
        model(tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="RGB"):
        model(torch.rand(1, 1, 8, 8))
    with pytest.warns(UserWarning, match="divide 0-255 images by 255"):
        model(torch.rand(1, 3, 8, 8) * 255)
    with pytest.warns(UserWarning, match="before any mean/std"):
        model(torch.randn(1, 3, 8, 8) * 2)
    with pytest.warns(UserWarning, match="resized from 9x8 to 8x8"):
        model(torch.rand(1, 3, 9, 8))


def test_options_that_do_not_exist_are_told():
    with pytest.raises(TypeError, match=r"'naf'.*colour"):
        naf_hub.load("naf", weights=None, colour=3)


@pytest.mark.usefixtures("choosy")
def test_a_backbone_specific_upsampler_takes_the_weights_of_its_backbone(monkeypatch):
    assert naf_hub.load("choosy", backbone="pico").upsampler.gain == 2  # pyright: ignore
    assert naf_hub.load("choosy", weights="dinov2_s").gain == 3  # pyright: ignore
    assert naf_hub.load("choosy", backbone="pico", weights=None).upsampler.gain == 1  # pyright: ignore
    monkeypatch.setattr("naf_hub.loading.load_backbone", lambda *_, **__: pytest.fail("loaded for nothing"))
    with pytest.raises(
        naf_hub.WeightsError,
        match=r"no weights for backbone 'franca_b'; it has them for: dinov2_s, pico; or pass",
    ):
        naf_hub.load("choosy", backbone="franca_b")
    for unnamed in (None, Cells()):
        with pytest.raises(naf_hub.WeightsError, match=r"per backbone \(dinov2_s, pico\); name the backbone"):
            naf_hub.load("choosy", backbone=unnamed)


def test_dense_features_in_one_line():
    with torch.no_grad():
        features = naf_hub.load_backbone("dinov2_reg_s", weights=None, depth=1)(torch.rand(1, 3, 56, 84))
    assert tuple(features.shape) == (1, 384, 4, 6)

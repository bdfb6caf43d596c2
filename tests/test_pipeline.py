"""Backbone and upsampler together."""

from __future__ import annotations

import copy
import pickle
import warnings

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import naf_hub
from naf_hub.commands.main import cli


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
        exported = torch.export.export(model, (image,), strict=False).module()(image)
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


@pytest.mark.parametrize("door", ["pipeline", "upsampler", "backbone", "low_res"])
def test_a_bad_range_is_told_once_at_the_callers_line(door):
    model = naf_hub.load("bilinear", backbone=Cells())
    image = torch.rand(1, 3, 9, 8) * 255
    call = {
        "pipeline": lambda: model(image),
        "upsampler": lambda: model.upsampler(image, torch.rand(1, 3, 2, 2)),
        "backbone": lambda: model.backbone(image),
        "low_res": lambda: model.low_res(image),
    }[door]
    for _ in range(2):  # each call tells it anew
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        told = [w for w in caught if "[0, 1]" in str(w.message)]
        assert len(told) == 1
        assert all(w.filename == __file__ for w in caught), [w.filename for w in caught]


def test_a_fixed_size_model_tells_its_caller(tmp_path):
    model = naf_hub.load_backbone("timm:swin_tiny_patch4_window7_224", weights=None, depths=(1, 1, 1, 1))
    model.fixed_size = (224, 224)
    with warnings.catch_warnings(record=True) as caught, torch.no_grad():
        warnings.simplefilter("always")
        model(torch.rand(1, 3, 200, 224) * 2)
    assert sorted(w.filename for w in caught) == [__file__] * 2
    assert any("the only size" in str(w.message) for w in caught)


def test_a_loaded_model_knows_its_record_and_weights():
    model = naf_hub.load("naf", backbone="pico")
    assert model.backbone.origin.label == "pico"  # pyright: ignore
    assert model.upsampler.origin.label == "naf"
    assert naf_hub.load("naf", weights=None, dim=32).origin.label == "naf=none"  # pyright: ignore
    assert naf_hub.load("bilinear").origin.label == "bilinear"  # pyright: ignore
    twin = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert twin.upsampler.origin == model.upsampler.origin
    assert Cells().origin is None


def test_options_that_do_not_exist_are_told():
    with pytest.raises(TypeError, match=r"upsampler 'naf' has no option 'colour'; options: dim, "):
        naf_hub.load("naf", weights=None, colour=3)
    with pytest.raises(TypeError, match=r"backbone 'pico' has no option 'width'; did you mean widths\?"):
        naf_hub.load_backbone("pico", weights=None, width=[8])


@pytest.mark.parametrize(
    ("load", "name", "options", "told"),
    [
        (naf_hub.load, "naf", {"dim": "abc"}, "upsampler 'naf': option dim = 'abc': must be a whole number"),
        (naf_hub.load, "naf", {"dim": True}, "option dim = True: must be a whole number"),
        (
            naf_hub.load,
            "anyup",
            {"memory": 1.5},
            "option memory = 1.5: must be a whole number or text, or none",
        ),
        (
            naf_hub.load_backbone,
            "pico",
            {"widths": "wide"},
            "option widths = 'wide': must be a list, each",
        ),
        (naf_hub.load_restorer, "dncnn", {"width": [3]}, r"option width = \[3\]: must be a whole number"),
    ],
)
def test_options_of_the_wrong_type_are_told(load, name, options, told):
    with pytest.raises(TypeError, match=told):
        load(name, weights=None, **options)


def test_options_as_other_libraries_have_them():
    model = naf_hub.load("naf", weights=None, dim=np.int64(32))
    assert model.dim == 32  # pyright: ignore


@pytest.mark.usefixtures("choosy")
def test_a_backbone_specific_upsampler_takes_the_weights_of_its_backbone(monkeypatch):
    assert naf_hub.load("choosy", backbone="pico").upsampler.gain == 2  # pyright: ignore
    assert naf_hub.load("choosy", weights="dinov2_s").gain == 3  # pyright: ignore
    assert naf_hub.load("choosy", backbone="pico", weights=None).upsampler.gain == 1  # pyright: ignore
    monkeypatch.setattr("naf_hub.loading.load_backbone", lambda *_, **__: pytest.fail("loaded for nothing"))
    with pytest.raises(
        naf_hub.WeightsError,
        match=r"no weights for backbone 'franca_b'; it has them for: dinov2_s, pico; pass weights=",
    ):
        naf_hub.load("choosy", backbone="franca_b")
    for unnamed in (None, Cells()):
        with pytest.raises(naf_hub.WeightsError, match=r"per backbone \(dinov2_s, pico\); name the backbone"):
            naf_hub.load("choosy", backbone=unnamed)


def test_dense_features_in_one_line():
    with torch.no_grad():
        features = naf_hub.load_backbone("dinov2_reg_s", weights=None, depth=1)(torch.rand(1, 3, 56, 84))
    assert tuple(features.shape) == (1, 384, 4, 6)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda output: output[..., 1:], r"Spoilt returned shape \(1, 4, 32, 31\) where \(1, 4, 32, 32\)"),
        (lambda output: output.double(), "Spoilt returned torch.float64 for features of torch.float32"),
        (lambda output: [output], "Spoilt returned list"),
        (lambda output: output.to("meta"), "Spoilt returned a map on meta"),
    ],
)
def test_what_a_method_returns_is_checked_on_every_call(spoil, message):
    class Spoilt(naf_hub.Upsampler):
        def upsample(self, image, features, output_size):
            return spoil(torch.nn.functional.interpolate(features, output_size))

    with pytest.raises((TypeError, ValueError), match=message):
        Spoilt()(torch.rand(1, 3, 32, 32), torch.rand(1, 4, 2, 2))


def test_output_sizes_of_every_whole_number():
    model = naf_hub.load("bilinear")
    image, features = torch.rand(1, 3, 8, 9), torch.rand(1, 4, 2, 2)
    for size in (
        np.int64(5),
        (np.int32(5), 6),
        np.array([5, 6]),
        torch.Size([5, 6]),
        [5, 6],
        torch.tensor([5, 6]),
    ):
        assert model(image, features, size).shape[-2] == 5
    for size in (5.0, (5, 6.5), "5", (True, 4), (1, 2, 3), {5: 6}, object()):
        with pytest.raises(ValueError, match="must be an int or"):
            model(image, features, size)


def test_results_go_into_a_callers_buffer_and_come_by_rows():
    model = naf_hub.load("naf", backbone=Cells(), weights=None, dim=32, num_blocks=1, kernel_size=3)
    image = torch.rand(2, 3, 16, 20)
    with torch.no_grad():
        expected = model(image)
        # One half of a larger tensor, as pipelines that put features side by side have it.
        buffer = torch.zeros(2, 6, 16, 20)
        model(image, output=buffer[:, 3:])
        assert torch.equal(buffer[:, 3:], expected)
        assert not buffer[:, :3].any()
        rows = torch.cat(list(model.stream(image, rows=(2, 9))), 2)
        torch.testing.assert_close(rows, expected[:, :, 2:9], atol=2e-6, rtol=0)
        with torch.autocast("cpu", torch.bfloat16):
            model(image, output=buffer[:, 3:])
        torch.testing.assert_close(buffer[:, 3:], expected, atol=0.02, rtol=0)
    model.requires_grad_(True)
    model(image, output=buffer[:, 3:])  # a graph is built, and the values are the same
    torch.testing.assert_close(buffer[:, 3:].detach(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (torch.empty(1, 4, 8, 10), r"output has shape \(1, 4, 8, 10\) but the result has \(1, 4, 8, 9\)"),
        (torch.empty(1, 4, 8, 9).double(), "output is torch.float64 but the result is torch.float32"),
        (torch.empty(1, 4, 8, 9, device="meta"), "output is on meta; it must be on cpu"),
        (torch.empty(1, 4, 8, 9, requires_grad=True), "output requires gradients"),
        (torch.empty(1, 4, 8, 1).expand(1, 4, 8, 9), "output is expanded"),
        (np.empty((1, 4, 8, 9), np.float32), r"got ndarray; torch.from_numpy\(...\) shares its memory"),
        (True, "output must be a torch tensor to write to, got bool$"),
    ],
    ids=["shape", "dtype", "device", "gradients", "expanded", "array", "flag"],
)
def test_a_buffer_that_cannot_take_the_result_is_told(output, message):
    model = naf_hub.load("bilinear")
    with pytest.raises((TypeError, ValueError), match=message):
        model(torch.rand(1, 3, 8, 9), torch.rand(1, 4, 2, 3), output=output)


def test_a_buffer_over_the_image_or_the_features_is_refused():
    model = naf_hub.load("bilinear")
    memory = torch.rand(2, 3, 8, 9)
    image, features = memory[:1], memory[1:]
    for output in (image, features):
        with pytest.raises(ValueError, match="shares memory with the image or the features"):
            model(image, features, output=output)
    assert torch.equal(model(image, torch.rand(1, 3, 2, 2), output=features), features)  # beside it is well


def test_the_call_resizes_as_the_command_does(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (30, 43, 3), dtype=np.uint8)
    Image.fromarray(rgb).save(tmp_path / "a.png")
    arguments = ["upsample", str(tmp_path / "a.png"), "-o", str(tmp_path), "--format", "npy", "--no-picture",
                 "--upsampler", "bilinear", "--dtype", "float32", "--device", "cpu"]  # fmt: skip
    model = naf_hub.load("bilinear", backbone="pico")
    for size, given in (("32", {"shorter_side": 32}), ("48x64", {"image_size": (48, 64)}), ("native", {})):
        done = CliRunner().invoke(cli, [*arguments, "--size", size, "--force"])
        assert done.exit_code == 0, done.output
        features = torch.from_numpy(np.load(tmp_path / "a.png.npy"))
        for image in (tmp_path / "a.png", Image.fromarray(rgb), rgb):
            with torch.no_grad():
                assert torch.allclose(model(image, **given)[0], features, atol=1e-5), size
    assert tuple(model.low_res(rgb, shorter_side=32).shape[-2:]) == (2, 3)
    strips = list(model.stream(rgb, image_size=(16, 32)))
    assert sum(strip.shape[-2] for strip in strips) == 16


def test_photos_of_several_sizes_make_a_batch_of_one():
    model = naf_hub.load("bilinear", backbone=Cells())
    photos = [Image.new("RGB", (20, 12)), np.zeros((40, 24, 3), dtype=np.uint8), torch.zeros(3, 8, 8)]
    assert tuple(model(photos, image_size=(8, 12)).shape) == (3, 3, 8, 12)
    with pytest.raises(ValueError, match="images of a batch must have one size, got"):
        model(photos, shorter_side=8)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"shorter_side": 32, "image_size": (32, 32)}, "not both"),
        ({"shorter_side": 0}, "shorter_side is a number of pixels"),
        ({"shorter_side": "448"}, "got '448'"),
        ({"image_size": (4, 5, 6)}, r"image_size is \(H, W\)"),
    ],
)
def test_a_size_that_is_none_is_told(given, message: str):
    with pytest.raises(ValueError, match=message):
        naf_hub.load("bilinear", backbone=Cells())(torch.rand(3, 8, 8), **given)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", torch.device("cuda"), 0])
def test_a_gpu_that_is_not_there_is_one_clear_line(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for load in (naf_hub.load, naf_hub.load_backbone, naf_hub.load_restorer):
        name = {"load": "bilinear", "load_backbone": "pico", "load_restorer": "dncnn"}[load.__name__]
        with pytest.raises(ValueError, match="torch finds no CUDA GPU; use auto or cpu"):
            load(name, device=device, weights=None)

"""Methods that need more of a backbone than its last map, each through every door."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image

import naf_hub
from naf_hub import MapError, Want
from naf_hub.commands.main import cli
from naf_hub.testing import check_upsampler

TOYS = """
import torch
import torch.nn.functional as F
from naf_hub import Promises, Upsampler, UpsamplerRecord, Want, hookimpl


class Keyed(Upsampler):
    "Wants keys of the last block."

    wants = (Want(-1, "key"),)
    promises = Promises(linear_groups=1, range=True)

    def __init__(self):
        super().__init__()
        self.gain = torch.nn.Parameter(torch.ones(()))

    def upsample(self, image, features, output_size):
        return F.interpolate(features, output_size, mode="bilinear") * self.gain


class Layered(Upsampler):
    "Wants three hidden layers and looks at the image."

    wants = (Want(), Want(0), Want(1, norm=False))

    def upsample(self, image, features, output_size):
        last, first, second = (features[want.name] for want in self.wants)
        grey = F.adaptive_avg_pool2d(image.mean(1, keepdim=True), output_size)
        low, mid, high = (F.interpolate(f, output_size, mode="bilinear") for f in (first, second, last))
        return high + 0.1 * grey * (low - low) + 0.1 * (mid - mid)


class Tiled(Upsampler):
    "Runs the backbone on four quarters of the enlarged image beside the whole."

    promises = Promises(constant=True)

    def gather(self, image, backbone):
        whole = super().gather(image, backbone)
        height, width = image.shape[-2:]
        large = F.interpolate(image, scale_factor=2, mode="bilinear").clamp(0, 1)
        rows = [
            torch.cat([super(Tiled, self).gather(large[..., y : y + height, x : x + width], backbone)
                       for x in (0, width)], 3)
            for y in (0, height)
        ]
        return {"whole": whole, "tiles": torch.cat(rows, 2)}

    def upsample(self, image, features, output_size):
        whole, tiles = (F.interpolate(features[k], output_size, mode="bilinear") for k in ("whole", "tiles"))
        return (whole + tiles) / 2


class Fitted(Upsampler):
    "Optimises per image: a map whose averages are the features."

    promises = Promises(export=False, gradients=False)

    def upsample(self, image, features, output_size):
        grid = features.shape[-2:]
        off = torch.autocast(features.device.type, enabled=False)
        with torch.inference_mode(False), torch.enable_grad(), off:
            goal = features.detach().clone()
            found = F.interpolate(goal, output_size, mode="bilinear").requires_grad_()
            for _ in range(3):
                loss = (F.adaptive_avg_pool2d(found, grid) - goal).square().sum()
                (slope,) = torch.autograd.grad(loss, found)
                found = (found - slope).detach().requires_grad_()
        return found.detach()


@hookimpl
def register_upsamplers(register):
    for name, cls in (("keyed", "Keyed"), ("layered", "Layered"), ("tiled", "Tiled"), ("fitted", "Fitted")):
        register(UpsamplerRecord(name=name, summary="A toy.", target=f"toys_naf:{cls}",
                                 learned=name == "keyed", trainable=name == "keyed"))
"""
NAMES = ("keyed", "layered", "tiled", "fitted")
VIT = (
    "--backbone",
    "timm:vit_tiny_patch16_224",
    "--backbone-weights",
    "none",
    "--backbone-option",
    "depth=3",
)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, [str(a) for a in arguments])


@pytest.fixture(autouse=True)
def toys(install_plugin):
    install_plugin("toys-naf", TOYS)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(3):
        rgb = np.random.default_rng(i).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(rgb).resize((64, 64)).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def labelled(tmp_path: Path, pictures: Path) -> Path:
    root = tmp_path / "data"
    for split in ("train", "val"):
        (root / split / "images").mkdir(parents=True)
        (root / split / "labels").mkdir()
        for i in range(2):
            picture = Image.open(pictures / f"{i}.png")
            picture.save(root / split / "images" / f"{i}.png")
            ids = (np.asarray(picture.convert("L")) > 128).astype(np.uint8)
            Image.fromarray(ids).save(root / split / "labels" / f"{i}.png")
    classes = [{"id": 0, "name": "dark"}, {"id": 1, "name": "light"}]
    (root / "classes.json").write_text(json.dumps({"classes": classes}))
    return root


@pytest.mark.parametrize("name", NAMES)
def test_conformance(name: str):
    check_upsampler(name)


@pytest.mark.parametrize("name", NAMES)
def test_load_behind_a_transformer(name: str):
    backbone = naf_hub.load_backbone("timm:vit_tiny_patch16_224", weights=None, depth=3)
    model = naf_hub.load(name, backbone=backbone, weights=None)
    with torch.no_grad():
        assert model(torch.rand(1, 3, 64, 96)).shape == (1, 192, 64, 96)
        assert model.low_res(torch.rand(1, 3, 64, 96)).shape == (1, 192, 4, 6)


def test_a_backbone_without_the_maps_is_told_in_one_line(pictures: Path, tmp_path: Path):
    with pytest.raises(MapError, match=r"has no key\[-1\]") as told:
        naf_hub.load("keyed", backbone="timm:resnet10t", backbone_weights=None, weights=None)(
            torch.rand(1, 3, 64, 64)
        )
    assert "\n" not in str(told.value)
    result = run("upsample", pictures, "-o", tmp_path / "out", "--upsampler", "keyed=none", "--backbone",
                 "timm:resnet10t", "--backbone-weights", "none", "--size", 64)  # fmt: skip
    assert result.exit_code == 1
    assert "has no key[-1]" in result.output
    assert "Traceback" not in result.output


def test_a_backbone_with_one_map_only_is_told_so():
    class Plain(naf_hub.Backbone):
        def __init__(self):
            super().__init__(embed_dim=3, patch_size=8)

        def extract(self, image):
            return torch.nn.functional.avg_pool2d(image, 8)

    with pytest.raises(MapError, match=r"Plain has no token\[0\]: it gives its last map only"):
        naf_hub.load("layered", backbone=Plain())(torch.rand(1, 3, 64, 64))
    with pytest.raises(MapError, match=r"wants token\[-1\], token\[0\].*AvgPool2d is no naf_hub.Backbone"):
        naf_hub.load("layered", backbone=torch.nn.AvgPool2d(8))(torch.rand(1, 3, 64, 64))
    assert naf_hub.load("fitted", backbone=torch.nn.AvgPool2d(8))(torch.rand(1, 3, 64, 64)).shape[1] == 3


@pytest.mark.parametrize("name", NAMES)
def test_upsample(name: str, pictures: Path, tmp_path: Path):
    result = run("upsample", pictures / "0.png", "-o", tmp_path / "out", "--upsampler", f"{name}=none", *VIT,
                 "--size", 64, "--json")  # fmt: skip
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout)["results"][0]
    assert done["features"] == [192, 64, 64]
    assert done["low_res"] == [192, 4, 4]


@pytest.mark.parametrize("task", ["reconstruction", "segmentation"])
def test_eval(task: str, pictures: Path, labelled: Path):
    named = [part for name in NAMES for part in ("--upsampler", f"{name}=none")]
    data = {
        "reconstruction": ("--images", pictures, "--crop", 64),
        "segmentation": ("--data", labelled, "--size", "64x64", "--epochs", 1, "--train-pixels", 32),
    }[task]
    result = run("eval", task, *named, "--upsampler", "bilinear", *VIT, *data, "--json")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    ceiling = ["image_free", "image_free_convex"] if task == "reconstruction" else []
    assert [row["upsampler"] for row in report["rows"]] == [*NAMES, "bilinear", *ceiling]


def test_bench():
    result = run("bench", *NAMES, "--features", "8,4,4", "--size", 32, "--repeats", 1, "--json")
    assert result.exit_code == 0, result.output
    assert [row["upsampler"] for row in json.loads(result.stdout)["rows"]] == list(NAMES)


def test_train(pictures: Path, tmp_path: Path):
    settings = ("crop=64", "steps=2", "batch=1", "resize=64", "eval_every=2", "precision=fp32")
    assignments = [part for text in settings for part in ("--set", text)]
    depth = ("--set", "backbone_options.depth=3")
    cache = ("--set", "views=1", "--cache-features", tmp_path / "cache")
    for number, extra in enumerate(((), cache, cache)):
        out = tmp_path / f"run{number}"
        result = run("train", "reconstruction", "--upsampler", "keyed", "--backbone", "timm:vit_tiny_patch16_224=none",
                     *depth, "--images", pictures, "--out", out, *assignments, *extra, "--device", "cpu")  # fmt: skip
        assert result.exit_code == 0, result.output
        assert naf_hub.load("keyed", weights=out / "weights").gain != 1  # pyright: ignore


def test_features_are_cached_under_what_was_gathered():
    loaded = {name: naf_hub.load(name, weights=None) for name in NAMES}
    assert loaded["fitted"].gather_key == naf_hub.load("bilinear").gather_key
    assert len({model.gather_key for model in loaded.values()}) == 4
    assert Want(-1, "key").name == "key[-1]"

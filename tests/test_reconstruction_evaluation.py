"""Held-out figures, by hand and through the command."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from interrupted_evaluation import check_going_on
from reconstruction_world import BACKBONE, draw_picture, draw_pictures

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.errors import ImageError
from naf_hub.images import read_image
from naf_hub.reports import Report
from naf_hub_reconstruction.evaluate import Pair, bilinear, score
from naf_hub_reconstruction.task import Reconstruction


@pytest.fixture
def pictures(tmp_path, install_plugin):
    install_plugin("tiny-plugin", BACKBONE)
    return draw_pictures(tmp_path / "pictures", 3)


def evaluate(*arguments):
    base = ["eval", "reconstruction", "--backbone", "tiny_backbone", "--crop", "64"]
    return CliRunner().invoke(cli, [*base, *arguments])


def read(result):
    assert result.exit_code == 0, result.output
    return Report.from_json(result.stdout)


def test_score_by_hand():
    small = torch.tensor([[[[0.0, 4.0]]]])
    target = torch.tensor([[[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]]]])
    pair = Pair(torch.zeros(1, 3, 8, 16), small, target, small)
    nearest = F.interpolate(small, (2, 4), mode="nearest")
    figures = score({"nearest": lambda *_: nearest, "zero": lambda *_: torch.zeros(1, 1, 2, 4)}, [pair])
    # Bilinear gives 0, 1, 3, 4 in each row: squared errors 0, 1, 1, 0.
    assert figures["bilinear_mse"] == pytest.approx(0.5)
    assert figures["methods"]["nearest"]["mse"] == 0
    assert figures["methods"]["zero"] == {
        "mse": pytest.approx(8.0),
        "ratio_to_bilinear": pytest.approx(16.0),
        "cosine": 0.0,
    }


def test_errors_are_means_over_images():
    zero = torch.zeros(1, 1, 1, 1)
    pairs = [
        Pair(torch.zeros(1, 3, 2, 2), zero, torch.full((1, 1, 2, 2), value), zero) for value in (1.0, 3.0)
    ]
    assert score({"b": bilinear}, pairs)["bilinear_mse"] == pytest.approx((1 + 9) / 2)


def test_no_image_is_an_error():
    with pytest.raises(ImageError, match="no usable"):
        score({}, [])


def test_command_against_an_independent_computation(pictures):
    """Everything in NumPy, from the pictures on: crop, halve, average, mix, interpolate, compare."""
    mix = naf_hub.load_backbone("tiny_backbone").mix.double().numpy()
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])

    def features(image):  # (H, W, 3) -> (h, w, 8)
        cells = ((image - mean) / std).reshape(image.shape[0] // 8, 8, image.shape[1] // 8, 8, 3).mean((1, 3))
        return cells @ mix.T

    def matrix(low, high):  # bilinear weights, half-pixel centres, clamped at the border
        weights = np.zeros((high, low))
        for i in range(high):
            position = min(max((i + 0.5) * low / high - 0.5, 0), low - 1)
            base = min(int(position), low - 2)
            weights[i, base] += 1 - (position - base)
            weights[i, base + 1] += position - base
        return weights

    nearest, linear = [], []
    for path in sorted(pictures.glob("*.png")):
        image = read_image(path).permute(1, 2, 0).double().numpy()[4:68, 8:72]
        halved = image.reshape(32, 2, 32, 2, 3).mean((1, 3))  # what bilinear resizing does at one half
        target, small = features(image), features(halved)
        nearest.append(((small.repeat(2, 0).repeat(2, 1) - target) ** 2).mean())
        grid = np.einsum("ia,jb,abd->ijd", matrix(4, 8), matrix(4, 8), small)
        linear.append(((grid - target) ** 2).mean())
    result = evaluate(
        "--upsampler", "nearest", "--upsampler", "bilinear", "--images", str(pictures), "--json"
    )
    report = read(result)
    assert report.data["images"] == 3
    assert report["nearest"].extras["bilinear_mse"] == pytest.approx(np.mean(linear), rel=1e-4)
    assert report["nearest"].values["mse"] == pytest.approx(np.mean(nearest), rel=1e-4)
    assert report["nearest"].values["ratio_to_bilinear"] == pytest.approx(
        np.mean(nearest) / np.mean(linear), rel=1e-4
    )
    assert report["bilinear"].values["ratio_to_bilinear"] == pytest.approx(1, abs=1e-6)


def test_pooled_input_loses_detail_alone(pictures):
    """The tiny backbone averages colours, so its features of the halved picture are its own averaged: 8-bit
    pictures halved by bilinear resizing are averages too, and both ways must agree."""
    arguments = ["--upsampler", "nearest", "--images", str(pictures), "--json"]
    plain, pooled = (read(evaluate(*arguments, *more)) for more in ([], ["--pooled"]))
    assert pooled["nearest"].values["mse"] == pytest.approx(plain["nearest"].values["mse"], rel=1e-4)
    assert pooled.protocol["pooled"]
    shrunk = ["--down", "0.25"]  # three pixels in four are not looked at when a quarter is resized
    plain, pooled = (
        read(evaluate(*arguments, *shrunk, *more))["nearest"].extras for more in ([], ["--pooled"])
    )
    assert pooled["bilinear_mse"] != pytest.approx(plain["bilinear_mse"], rel=1e-4)


def test_untrained_and_own_weights_side_by_side(pictures, tmp_path):
    naf = naf_hub.load("naf", weights=None, dim=32, num_blocks=1)
    from naf_hub.weights.files import save_weights

    folder = save_weights(tmp_path / "mine", naf, name="naf", options={"dim": 32, "num_blocks": 1})
    names = ["naf=none", f"naf={folder}"]
    arguments = [part for name in names for part in ("--upsampler", name)]
    result = evaluate(*arguments, "--images", str(pictures), "--json")
    report = read(result)
    assert [row.label for row in report.rows] == [*names, "image_free", "image_free_convex"]
    assert [(row.upsampler, row.weights) for row in report.rows[:2]] == [("naf", None), ("naf", str(folder))]


def test_weights_option_is_for_those_without_their_own(pictures, tmp_path):
    naf = naf_hub.load("naf", weights=None, dim=32, num_blocks=1)
    from naf_hub.weights.files import save_weights

    folder = save_weights(tmp_path / "mine", naf, name="naf", options={"dim": 32, "num_blocks": 1})
    names = [part for name in ("naf", "naf=none", "bilinear") for part in ("--upsampler", name)]
    report = read(evaluate(*names, "--weights", str(folder), "--images", str(pictures), "--json"))
    assert [row.label for row in report.rows] == [
        f"naf={folder}", "naf=none", "bilinear", "image_free", "image_free_convex",
    ]  # fmt: skip
    assert report.rows[0].values != report.rows[1].values


def test_table(pictures):
    result = evaluate("--upsampler", "bilinear", "--images", str(pictures))
    assert result.exit_code == 0, result.output
    assert "3 images, tiny_backbone, 0 skipped" in result.stdout
    assert "1.0000" in result.stdout


def test_an_interrupted_evaluation_goes_on(pictures, tmp_path):
    def compare(models, out):
        return Reconstruction().evaluate(
            models, pictures, {"crop": 64}, backbone="tiny_backbone", out=out, progress=False
        )

    check_going_on(compare, tmp_path / "out")


def test_limit_and_unusable_images(pictures):
    (pictures / "broken.png").write_bytes(b"no picture")
    draw_picture(pictures / "small.png", 0, (20, 200))
    result = evaluate("--upsampler", "bilinear", "--images", str(pictures), "--min-side", "64", "--json")
    data = read(result).data
    assert data["images"] == 3
    assert {path.rsplit("/")[-1] for path in data["skipped"]} == {"broken.png", "small.png"}
    limited = evaluate("--upsampler", "bilinear", "--images", str(pictures), "--limit", "2", "--json")
    assert read(limited).data["images"] == 2


def test_unreadable_images_alone_are_told(tmp_path, pictures):
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ImageError, match=r"no image that can be read in .*: .*broken\.png"):
        Reconstruction().evaluate("bilinear", tmp_path / "broken.png", {"crop": 64}, backbone="tiny_backbone")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--upsampler", "bilinear"], 2, "--images"),
        (["--upsampler", "bilinear", "--images", "nowhere"], 1, "no image at nowhere"),
        (["--upsampler", "bilineer", "--images", "pictures"], 2, "bilinear"),
        (["--upsampler", "naf=nowhere", "--images", "pictures"], 1, "nowhere"),
        (["--upsampler", "bilinear=foo", "--images", "pictures"], 2, "no weights to choose"),
        (
            ["--upsampler", "bilinear", "--images", "pictures", "--device", "cuda:99"],
            1,
            "cuda:99 is not there",
        ),
    ],
)
def test_bad_usage(pictures, arguments, status, message):
    result = evaluate(*(str(pictures) if argument == "pictures" else argument for argument in arguments))
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.output


PLUGIN = """
import torch
from naf_hub import Upsampler, UpsamplerRecord, Want, hookimpl

class Plain(Upsampler):
    def upsample(self, image, features, output_size):
        return torch.nn.functional.interpolate(features, output_size, mode="bilinear")

class Tiled(Plain):
    def gather(self, image, backbone):
        halves = image.chunk(2, -1)
        return torch.cat([backbone(half) for half in halves], -1)

class Doubled(Plain):
    def reference(self, features):
        return 2 * features

    def upsample(self, image, features, output_size):
        return super().upsample(image, 2 * features, output_size)

@hookimpl
def register_upsamplers(register):
    for name in ("Plain", "Tiled", "Doubled"):
        register(UpsamplerRecord(name=name.lower(), summary="A toy.", target=f"toys:{name}", learned=False))
"""


def test_contenders_that_gather_the_same_share_one_pass(pictures, install_plugin):
    install_plugin("toys", PLUGIN)
    backbone = naf_hub.load_backbone("tiny_backbone")
    images = sorted(pictures.glob("*.png"))[:2]

    def passes(*names):
        type(backbone).calls = 0
        report = Reconstruction().evaluate(names, images, {"crop": 64}, backbone=backbone, progress=False)
        return type(backbone).calls, report

    assert passes("plain")[0] == 2 * 2  # the crop and the smaller crop, of two images
    assert passes("plain", "bilinear", "nearest", "doubled")[0] == 2 * 2
    assert passes("plain", "tiled")[0] == 2 * 2 + 2 * 4  # one of its own, in halves
    assert passes("tiled")[0] == 2 * 4


def test_an_output_in_another_space_is_compared_there(pictures, install_plugin):
    install_plugin("toys", PLUGIN)
    report = Reconstruction().evaluate(
        ["plain", "doubled"], [pictures], {"crop": 64}, backbone="tiny_backbone", progress=False
    )
    plain, doubled = report["plain"].values, report["doubled"].values
    assert doubled["mse"] == pytest.approx(4 * plain["mse"], rel=1e-5)
    assert doubled["ratio_to_bilinear"] == pytest.approx(1, abs=1e-6)


def test_settings_and_backbone_are_asked_for(pictures):
    for protocol, told in [
        ({"cropp": 64}, "unknown key 'cropp'; did you mean crop"),
        ({"crop": "64"}, "crop = '64': must be a whole number"),
        ({"down": math.nan}, "down = nan: must be a number"),
        ({"down": 0}, "down = 0.0: must lie between 0 and 1"),
        ({"down": 1}, "down = 1.0: must lie between 0 and 1; 1 needs a ratio"),
        ({"down": 2, "ratio": 4}, "down = 2.0: must be more than 0 and at most 1"),
        ({"down": 0.01}, "down = 0.01 makes 3.84 pixels of a crop of 384, less than a patch of the backbone"),
        ({"guidance": -1}, "guidance = -1.0: must be positive"),
        ({"guidance_max": -1}, "guidance_max = -1: must not be negative"),
        ({"ratio": 1}, "ratio = 1.0: must be 0 or more than 1"),
        ({"crop": 0}, "crop = 0: must be at least 1"),
        ({"resize": -1}, "resize = -1: must not be negative"),
        ({"limit": -3}, "limit = -3: must not be negative"),
        ({"min_side": 5000}, "no image with a short side of 5000 pixels or more in .*pictures: .*short side"),
    ]:
        with pytest.raises(ValueError, match=told):
            Reconstruction().evaluate("bilinear", pictures, protocol, backbone="tiny_backbone")
    with pytest.raises(ValueError, match="needs a backbone"):
        Reconstruction().evaluate("bilinear", pictures)


def test_train_command_reports_and_task_object_trains(pictures, tmp_path):
    options = ["upsampler_options.dim=32", "upsampler_options.num_blocks=1", "steps=2", "batch=1", "crop=64"]
    arguments = [part for option in options for part in ("--set", option)]
    base = ["train", "reconstruction", "--recipe", "naf-cpu", "--backbone", "tiny_backbone", *arguments]
    base += ["--set", "min_side=0"]
    result = CliRunner().invoke(
        cli, [*base, "--out", str(tmp_path / "a"), "--images", str(pictures), "--json"]
    )
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["steps"] == 2
    assert naf_hub.load("naf", weights=summary["weights"])
    plain = CliRunner().invoke(cli, [*base, "--out", str(tmp_path / "b"), str(pictures / "000.png")])
    assert plain.exit_code == 0, plain.output
    assert "2 steps in" in plain.stdout
    task = naf_hub.load_task("reconstruction")
    more = {"upsampler_options": {"dim": 32, "num_blocks": 1}, "steps": 1, "crop": 64, "min_side": 0}
    again = task.train(
        out=tmp_path / "c",
        recipe="naf-cpu",
        backbone="tiny_backbone",
        images=[str(pictures)],
        progress=False,
        **more,
    )
    assert again["steps"] == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--set", "stepps=1"], 2, "did you mean steps"),
        (["--recipe", "nothing"], 1, "naf-cpu"),
        ([], 1, "no training images"),
        (["--images", "nowhere"], 1, "no image at nowhere"),
    ],
)
def test_bad_training_settings_are_one_line(pictures, tmp_path, arguments, status, message):
    base = ["train", "reconstruction", "--backbone", "tiny_backbone", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, [*base, *arguments])
    assert result.exit_code == status
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1

"""Held-out figures, by hand and through the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from reconstruction_world import BACKBONE, draw_picture, draw_pictures

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.errors import ImageError
from naf_hub.images import read_image
from naf_hub_reconstruction.evaluate import Pair, bilinear, score
from naf_hub_reconstruction.task import load_named


@pytest.fixture
def pictures(tmp_path, install_plugin):
    install_plugin("tiny-plugin", BACKBONE)
    return draw_pictures(tmp_path / "pictures", 3)


def evaluate(*arguments):
    base = ["eval", "reconstruction", "--backbone", "tiny_backbone", "--crop", "64"]
    return CliRunner().invoke(cli, [*base, *arguments])


def test_score_by_hand():
    small = torch.tensor([[[[0.0, 4.0]]]])
    target = torch.tensor([[[[0.0, 0.0, 4.0, 4.0], [0.0, 0.0, 4.0, 4.0]]]])
    pair = Pair(torch.zeros(1, 3, 8, 16), small, target)
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
    pairs = [
        Pair(torch.zeros(1, 3, 2, 2), torch.zeros(1, 1, 1, 1), torch.full((1, 1, 2, 2), value))
        for value in (1.0, 3.0)
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
    assert result.exit_code == 0, result.output
    figures = json.loads(result.stdout)
    assert figures["images"] == 3
    assert figures["bilinear_mse"] == pytest.approx(np.mean(linear), rel=1e-4)
    assert figures["methods"]["nearest"]["mse"] == pytest.approx(np.mean(nearest), rel=1e-4)
    assert figures["methods"]["nearest"]["ratio_to_bilinear"] == pytest.approx(
        np.mean(nearest) / np.mean(linear), rel=1e-4
    )
    assert figures["methods"]["bilinear"]["ratio_to_bilinear"] == pytest.approx(1, abs=1e-6)


def test_pooled_input_loses_detail_alone(pictures):
    """The tiny backbone averages colours, so its features of the halved picture are its own averaged: 8-bit
    pictures halved by bilinear resizing are averages too, and both ways must agree."""
    arguments = ["--upsampler", "nearest", "--images", str(pictures), "--json"]
    plain, pooled = (json.loads(evaluate(*arguments, *more).stdout) for more in ([], ["--pooled"]))
    assert pooled["methods"]["nearest"]["mse"] == pytest.approx(plain["methods"]["nearest"]["mse"], rel=1e-4)
    assert pooled["pooled"]
    shrunk = ["--down", "0.25"]  # three pixels in four are not looked at when a quarter is resized
    plain, pooled = (json.loads(evaluate(*arguments, *shrunk, *more).stdout) for more in ([], ["--pooled"]))
    assert pooled["bilinear_mse"] != pytest.approx(plain["bilinear_mse"], rel=1e-4)


def test_untrained_and_own_weights_side_by_side(pictures, tmp_path):
    naf = naf_hub.load("naf", weights=None, dim=32, num_blocks=1)
    from naf_hub.weights.files import save_weights

    folder = save_weights(tmp_path / "mine", naf, name="naf", options={"dim": 32, "num_blocks": 1})
    names = ["naf=none", f"naf={folder}"]
    arguments = [part for name in names for part in ("--upsampler", name)]
    result = evaluate(*arguments, "--images", str(pictures), "--json")
    assert result.exit_code == 0, result.output
    assert list(json.loads(result.stdout)["methods"]) == names


def test_weights_option_is_for_those_without_their_own(tmp_path):
    naf = naf_hub.load("naf", weights=None, dim=32, num_blocks=1)
    from naf_hub.weights.files import save_weights

    folder = save_weights(tmp_path / "mine", naf, name="naf", options={"dim": 32, "num_blocks": 1})
    name, loaded = load_named("naf", str(folder))
    assert name == "naf"
    assert torch.equal(next(loaded.parameters()), next(naf.parameters()))
    assert load_named("bilinear", str(folder))[0] == "bilinear"


def test_table(pictures):
    result = evaluate("--upsampler", "bilinear", "--images", str(pictures))
    assert result.exit_code == 0, result.output
    assert "3 images, tiny_backbone, 0 skipped" in result.stdout
    assert "1.0000" in result.stdout


def test_limit_and_unusable_images(pictures):
    (pictures / "broken.png").write_bytes(b"no picture")
    draw_picture(pictures / "small.png", 0, (20, 200))
    result = evaluate("--upsampler", "bilinear", "--images", str(pictures), "--min-side", "64", "--json")
    figures = json.loads(result.stdout)
    assert figures["images"] == 3
    assert {path.rsplit("/")[-1] for path in figures["skipped"]} == {"broken.png", "small.png"}
    limited = evaluate("--upsampler", "bilinear", "--images", str(pictures), "--limit", "2", "--json")
    assert json.loads(limited.stdout)["images"] == 2


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--upsampler", "bilinear"], 2, "--images"),
        (["--upsampler", "bilinear", "--images", "nowhere"], 1, "no image at nowhere"),
        (["--upsampler", "bilineer", "--images", "."], 2, "bilinear"),
        (["--upsampler", "naf=nowhere", "--images", "."], 1, "nowhere"),
    ],
)
def test_bad_usage(pictures, arguments, status, message):
    result = evaluate(*arguments)
    assert result.exit_code == status
    assert message in result.stderr
    assert "Traceback" not in result.output


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
    ("arguments", "message"),
    [
        (["--set", "stepps=1"], "did you mean steps"),
        (["--recipe", "nothing"], "naf-cpu"),
        ([], "no training images"),
        (["--images", "nowhere"], "no image at nowhere"),
    ],
)
def test_bad_training_settings_are_one_line(pictures, tmp_path, arguments, message):
    base = ["train", "reconstruction", "--backbone", "tiny_backbone", "--out", str(tmp_path / "run")]
    result = CliRunner().invoke(cli, [*base, *arguments])
    assert result.exit_code == 1
    assert message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1

"""Classical methods beside restorers in ``naf-hub eval denoising``."""

from __future__ import annotations

import json
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from reconstruction_world import draw_pictures

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.errors import MissingExtraError
from naf_hub_restoration.classical import apply, classical_methods
from naf_hub_restoration.noise import Noise

METHODS = ["gaussian blur", "non-local means", "total variation", "wavelet"]


def run(*arguments: str):
    return CliRunner().invoke(cli, ["eval", "denoising", *arguments])


@pytest.fixture(scope="module")
def methods():
    pytest.importorskip("skimage")
    pytest.importorskip("pywt")
    return classical_methods()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    draw_pictures(folder, 2)
    return str(folder)


def test_rows_beside_the_noisy_image_and_a_restorer(methods, pictures):
    found = run("--classical", "--restorer", "ircnn=none", "--images", pictures, "--sigma", "0.3:0.5", "--crop", "48",
                "--resize", "0", "--batch", "1", "--json")  # fmt: skip
    assert found.exit_code == 0, found.output
    report = json.loads(found.output[found.output.index("{") :])
    rows = {row["label"]: row for row in report["rows"]}
    assert list(rows) == ["noisy", *METHODS, "ircnn=none"]
    for label in METHODS:
        assert rows[label]["values"]["psnr"] > rows["noisy"]["values"]["psnr"] + 5
        assert rows[label]["note"] == "told the level of the noise"
    assert report["protocol"]["classical"] is True


def test_they_stand_alone_and_the_noise_does_not_depend_on_them(methods, pictures):
    settings = {"level": 0.3, "crop": 32, "resize": 0, "limit": 1}
    task = naf_hub.load_task("denoising")
    alone = task.evaluate([], pictures, {**settings, "classical": True}, progress=False)
    assert [row.label for row in alone.rows] == ["noisy", *METHODS]
    without = task.evaluate(
        [naf_hub.load_restorer("ircnn", weights=None, width=8)], pictures, settings, progress=False
    )
    assert without["noisy"].values == alone["noisy"].values
    assert task.evaluate([], pictures, {**settings, "classical": True}, progress=False).rows == alone.rows
    with pytest.raises(ValueError, match="no restorer given"):
        task.evaluate([], pictures, settings, progress=False)


@pytest.mark.parametrize("label", METHODS)
@pytest.mark.filterwarnings("ignore:Level value of")  # wavelets of few pixels
def test_batches_tiny_and_oblong_images_and_no_noise(methods, label):
    generator = torch.Generator().manual_seed(0)
    for height, width in ((1, 1), (2, 9), (16, 24)):
        noisy = 0.5 + 0.2 * torch.randn(2, 3, height, width, generator=generator)
        found = apply(methods[label], noisy, 0.2)
        assert (found.shape, found.dtype) == (noisy.shape, noisy.dtype)
        assert torch.isfinite(found).all()
        assert torch.equal(found[1:], apply(methods[label], noisy[1:], 0.2)), "images stand by themselves"
        assert torch.equal(apply(methods[label], noisy, 0.0), noisy)
    assert float((found - 0.5).abs().mean()) < 0.6 * float((noisy - 0.5).abs().mean())


def test_the_level_that_is_told_is_the_one_that_was_drawn():
    clean, noise = torch.zeros(1, 3, 128, 128), Noise("gaussian", 0.1, 0.5)
    levels = [noise.level_of(0, number) for number in range(3)]
    assert len(set(levels)) == 3
    for number, level in enumerate(levels):
        assert float(noise.add(clean, 0, number).std()) == pytest.approx(level, rel=0.02)


def test_medians_against_salt_and_pepper(methods, pictures):
    found = run("--classical", "--images", pictures, "--noise", "salt_and_pepper", "--p", "0.3", "--crop", "48",
                "--resize", "0", "--json")  # fmt: skip
    assert found.exit_code == 0, found.output
    rows = {
        row["label"]: row["values"]["psnr"]
        for row in json.loads(found.output[found.output.index("{") :])["rows"]
    }
    noisy, blur, *medians = rows.values()
    assert len(medians) == 3
    assert min(medians) > blur > noisy


def test_the_median_that_leaves_zeros_and_ones_out(methods):
    generator = torch.Generator().manual_seed(0)
    method = classical_methods("salt_and_pepper")["median without 0 and 1"]
    clean = 0.2 + 0.6 * torch.rand(9, 8, 3, generator=generator).numpy()
    noisy = clean.copy()
    noisy[4, 4, 1], noisy[0, 0, 2] = 1, 0
    found = method(noisy, 0.1)
    assert np.array_equal(found[noisy == clean], clean[noisy == clean])
    window = np.delete(noisy[2:7, 2:7, 1].ravel(), 12)
    assert found[4, 4, 1] == pytest.approx(np.median(window))
    assert np.array_equal(method(np.ones((1, 1, 3)), 0.5), np.full((1, 1, 3), 0.5))


def test_what_they_cannot_do_is_one_line(pictures, monkeypatch):
    found = run("--images", pictures)
    assert (found.exit_code, "give --restorer, --classical or both" in found.output) == (2, True)
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(MissingExtraError, match=r"classical methods need pip install 'naf-hub\[eval\]'"):
        classical_methods()

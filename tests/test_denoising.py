"""The denoising task: noise, losses and figures against stored cases and scikit-image, training and both commands."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from naf_reference import golden
from PIL import Image
from reconstruction_world import draw_pictures

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.training.course import Share
from naf_hub.training.settings import ConfigError, build
from naf_hub_restoration.denoising_config import RECIPES, TrainConfig
from naf_hub_restoration.likeness import gaussian_line, paper_ssim, psnr, skimage_ssim
from naf_hub_restoration.losses import loss_terms, restoration_loss
from naf_hub_restoration.noise import Noise, gaussian, parse_level, salt_and_pepper
from naf_hub_restoration.noisy_batches import NoisyBatches

TINY = {"restorer": "ircnn", "restorer_options": {"width": 8}, "crop": 32, "resize": 0, "preview_every": 0}


def run(*arguments: str):
    return CliRunner().invoke(cli, list(arguments))


def test_noise_is_the_published_one():
    stored = golden("denoisers/noise")
    assert torch.equal(gaussian(stored["clean"], 0.3, stored["z"]), stored["gaussian"])
    found = salt_and_pepper(stored["clean"], 0.4, stored["u_mask"], stored["u_value"])
    assert torch.equal(found, stored["salt_pepper"])


def test_losses_and_the_figures_of_the_paper():
    stored = golden("denoisers/losses_metrics")
    prediction = stored["pred"].requires_grad_()
    terms = loss_terms(prediction, stored["target"])
    for name, term in terms.items():
        assert float((term - stored[f"loss_{name}"]).detach().abs()) < 1e-5
    total = restoration_loss(prediction, stored["target"])
    assert float((total - stored["loss_total"]).detach().abs()) < 1e-5
    (gradient,) = torch.autograd.grad(total, prediction)
    assert float((gradient - stored["grad_pred"]).abs().max()) < 1e-5
    prediction = prediction.detach()
    assert psnr(prediction, stored["target"]) == pytest.approx(float(stored["psnr"]), abs=1e-3)
    assert paper_ssim(prediction, stored["target"]) == pytest.approx(float(stored["ssim"]), abs=1e-5)
    assert float((gaussian_line(11, 11 / 6) - stored["ssim_window_1d"]).abs().max()) < 1e-6


def test_the_other_figures_are_those_of_scikit_image():
    metrics = pytest.importorskip("skimage.metrics")
    generator = torch.Generator().manual_seed(0)
    target = torch.rand(1, 3, 20, 17, generator=generator)
    prediction = (target + 0.2 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    a, b = target[0].numpy(), prediction[0].numpy()
    expected = metrics.structural_similarity(a, b, channel_axis=0, data_range=1)
    assert skimage_ssim(prediction, target) == pytest.approx(expected, abs=1e-6)
    assert psnr(prediction, target) == pytest.approx(
        metrics.peak_signal_noise_ratio(a, b, data_range=1), abs=1e-4
    )
    assert abs(paper_ssim(prediction, target) - expected) > 1e-3, "the two definitions differ"
    assert psnr(target + 9, target) == psnr(torch.ones_like(target), target), "predictions are clamped"
    assert psnr(target, target) == float("inf")
    assert skimage_ssim(target[..., :6], target[..., :6]) is None


def test_levels_of_a_range_differ_from_batch_to_batch_and_depend_on_the_seeds_alone():
    clean, noise = torch.full((4, 3, 64, 64), 0.5), Noise("gaussian", 0.1, 0.5)
    sigmas = [float((noise.add(clean, 0, number) - clean).std()) for number in range(20)]
    assert 0.09 < min(sigmas) < 0.2 < 0.4 < max(sigmas) < 0.52
    assert torch.equal(noise.add(clean, 0, 3), noise.add(clean, 0, 3))
    salted = Noise("salt_and_pepper", 0.3, 0.3).add(clean, 0)
    assert float((salted != 0.5).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float((salted == 1).float().mean()) == pytest.approx(0.15, abs=0.02)


@pytest.mark.parametrize("text", ["", "a", "0.1:b"])
def test_levels_that_are_no_numbers(text):
    with pytest.raises(ValueError, match="give a number, or LOW:HIGH"):
        parse_level(text)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": [0.5, 0.1]}, "0 <= LOW <= HIGH"),
        ({"noise": "salt_and_pepper", "level": [1.5]}, "0 <= LOW <= HIGH <= 1"),
        ({"level": [0.1, 0.2, 0.3]}, "must be one number"),
        ({"noise": "rain"}, "gaussian or salt_and_pepper"),
        ({"crop": 64, "resize": 32}, "at least the crop"),
        ({"l1": 0, "l2": 0, "ssim": 0}, "one of l1, l2, ssim must be positive"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(TrainConfig, settings)


def test_batches_are_functions_of_the_step_and_processes_share_an_epoch(tmp_path):
    draw_pictures(tmp_path, 6)
    files = sorted(tmp_path.iterdir())
    settings = build(TrainConfig, TINY, {"batch": 1, "accumulate": 2, "random_crop": True})
    whole = NoisyBatches(settings, files, Share(), 0, 4)
    later = NoisyBatches(settings, files, Share(), 2, 4)
    assert len(later) == 4
    for number in range(4):
        assert torch.equal(whole[4 + number].noisy, later[number].noisy)
    shared = [NoisyBatches(settings, files, Share(rank, 3), 0, 1) for rank in range(3)]
    names = [name for part in shared for batch in part for name in batch.names]
    assert sorted(names) == [path.name for path in files]
    assert not torch.equal(shared[0][0].noisy - shared[0][0].clean, shared[1][0].noisy - shared[1][0].clean)


def test_recipes_of_the_comparison_differ_in_what_is_compared_alone():
    settings = {name: build(TrainConfig, RECIPES.read(name)).to_dict() for name in RECIPES.names()}
    assert settings.pop("naf-denoiser-paper") == {**TrainConfig().to_dict(), "precision": "bf16"}
    del settings["naf-denoiser-default"]  # goes on from another's weights
    first = settings["naf-denoiser-gaussian"]
    assert {name: {key for key in first if first[key] != found[key]} for name, found in settings.items()} == {
        "naf-denoiser-gaussian": set(), "naf-denoiser-salt-and-pepper": {"noise", "level"}, "dncnn": {"restorer"},
        "ircnn": {"restorer"}, "rednet": {"restorer"},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        (["--recipe", "dncnn"], {"width": 8, "depth": 3}),
        (["--recipe", "ircnn", "--sigma", "0.2"], {"width": 8}),
        (["--recipe", "rednet"], {"width": 8, "depth": 3}),
        (["--restorer", "restormer", "--noise", "salt_and_pepper", "--p", "0.1:0.5"],
         {"dim": 8, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}),
        (["--recipe", "naf-denoiser-salt-and-pepper", "--p", "0.2"], {"dim": 16, "num_blocks": 1, "kernel_size": 3}),
    ],
)  # fmt: skip
def test_every_restorer_trains(tmp_path, arguments, options):
    draw_pictures(tmp_path / "pictures", 2)
    settings = {"crop": 16, "resize": 0, "steps": 2, "batch": 1, "preview_every": 0}
    settings |= {f"restorer_options.{key}": value for key, value in options.items()}
    found = run(
        "train", "denoising", str(tmp_path / "pictures"), "--out", str(tmp_path / "run"), "--device", "cpu", "--json",
        *arguments, *(f"--set={key}={value}" for key, value in settings.items()),
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    name = arguments[1] if arguments[1] in naf_hub.list_restorers() else "naf_denoiser"
    summary = json.loads(found.output[found.output.index("{") :])
    model = naf_hub.load_restorer(name, weights=summary["weights"])
    assert model(torch.rand(1, 3, 9, 8)).shape == (1, 3, 9, 8)
    level = {"--sigma": "gaussian 0.2", "--p": f"salt_and_pepper {arguments[-1]}"}.get(
        arguments[-2], "gaussian 0.1:0.5"
    )
    assert f"({level})" in (tmp_path / "run" / "weights" / "README.md").read_text()


def test_the_level_is_that_of_the_noise_of_the_recipe(tmp_path):
    found = run("train", "denoising", "x.png", "--recipe", "naf-denoiser-salt-and-pepper", "--sigma", "0.2",
                "--out", str(tmp_path))  # fmt: skip
    assert found.exit_code == 2
    assert "the level of salt_and_pepper noise is given by --probability" in found.output
    found = run("train", "denoising", "x.png", "--recipe", "naf", "--out", str(tmp_path))
    assert found.exit_code == 1
    assert "no recipe 'naf'; shipped ones: dncnn, ircnn, naf-denoiser-default, " in found.output


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The summary of a short run on pictures, its folder, and pictures that it did not see."""
    folder = tmp_path_factory.mktemp("denoising")
    draw_pictures(folder / "pictures", 8)
    draw_pictures(folder / "others", 3, seed=5)
    (folder / "pictures" / "broken.png").write_bytes(b"no picture")
    found = run(
        "train", "denoising", str(folder / "pictures"), "--held-out", str(folder / "others"), "--json",
        "--sigma", "0.3:0.5", "--out", str(folder / "run"),
        *(f"--set={key}={value}" for key, value in {
            "restorer_options.dim": 16, "restorer_options.num_blocks": 1, "restorer_options.kernel_size": 5,
            "crop": 32, "resize": 0, "steps": 30, "lr": 0.01, "batch": 2, "preview_every": 30, "eval_every": 15,
            "eval_images": 2,
        }.items()),
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    return json.loads(found.output[found.output.index("{") :]), folder


def test_training_takes_noise_away(trained):
    summary, folder = trained
    assert set(summary["held_out"]) == {"gaussian 0.3", "gaussian 0.4", "gaussian 0.5"}
    for figures in summary["held_out"].values():
        assert figures["psnr"] > figures["noisy_psnr"] + 3
        assert figures["images"] == 2
    assert summary["best"]["psnr"] > 12
    assert any("broken.png" in path for path in summary["skipped"])
    card = (folder / "run" / "best" / "README.md").read_text()
    assert "gaussian 0.3:0.5" in card
    assert "9 images of `pictures`" in card
    assert str(folder) not in card + (folder / "run" / "best" / "config.json").read_text()
    assert "scikit-image" in card
    model = naf_hub.load_restorer("naf_denoiser", weights=str(folder / "run" / "best"))
    assert model(torch.rand(1, 3, 9, 8)).shape == (1, 3, 9, 8)


def test_evaluation_names_both_kinds_of_figures(trained):
    _, folder = trained
    best = str(folder / "run" / "best")
    found = run(
        "eval", "denoising", "--restorer", f"naf_denoiser={best}", "--restorer", "rednet=none", "--images",
        str(folder / "others"), "--sigma", "0.4", "--crop", "32", "--resize", "0", "--limit", "2", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    report = json.loads(found.output[found.output.index("{") :])
    rows = {row["label"]: row["values"] for row in report["rows"]}
    assert next(iter(rows)) == "noisy"
    assert rows[f"naf_denoiser={best}"]["psnr"] > rows["noisy"]["psnr"] + 3
    for values in rows.values():
        assert set(values) == {"psnr", "ssim", "paper_psnr", "paper_ssim"}
    # Of a pair the paper's code takes the logarithm of the mean error, which is below the mean of logarithms.
    assert rows["noisy"]["paper_psnr"] < rows["noisy"]["psnr"]
    assert report["protocol"]["level"] == [0.4]
    assert report["data"]["images"] == 2


@pytest.mark.parametrize(
    "noise", [["--sigma", "0.6"], ["--noise", "salt_and_pepper", "--probability", "0.6"]]
)
def test_noise_that_it_was_not_trained_on(trained, noise):
    _, folder = trained
    found = run(
        "eval", "denoising", "--restorer", f"naf_denoiser={folder / 'run' / 'best'}", "--images",
        str(folder / "others"), *noise, "--crop", "0", "--json",
    )  # fmt: skip
    assert found.exit_code == 0, found.output
    noisy, restored = json.loads(found.output[found.output.index("{") :])["rows"]
    assert restored["values"]["psnr"] > noisy["values"]["psnr"] + 2


def counting(calls: list[int], most: int | None = None) -> torch.nn.Module:
    """A restorer that halves the distance from grey, notes each call, and is interrupted after so many."""

    class Counting(torch.nn.Module):
        def forward(self, noisy):
            if len(calls) == most:
                raise KeyboardInterrupt
            calls.append(1)
            return (noisy + 0.5) / 2

    return Counting()


def test_an_interrupted_evaluation_goes_on(tmp_path):
    photos = draw_pictures(tmp_path / "photos", 5)
    task, out = naf_hub.load_task("denoising"), tmp_path / "kept"

    def evaluate(calls, out=None, most=None, **settings):
        protocol = {"level": (0.1, 0.5), "crop": 24, "resize": 0, "classical": True, **settings}
        model = counting(calls, most)
        return task.evaluate({"grey": model}, photos, protocol, progress=False, out=out)

    def values(report):
        return [row.values for row in report.rows]

    expected, calls = evaluate([]), []
    with pytest.raises(KeyboardInterrupt):
        evaluate([], out, most=2)
    assert values(evaluate(calls, out)) == values(expected)
    assert len(calls) == 1
    assert values(evaluate([], out, most=0)) == values(expected)
    calls.clear()
    assert values(evaluate(calls, out, limit=2)) == values(evaluate([], limit=2))  # another batch
    assert len(calls) == 1
    calls.clear()
    evaluate(calls, out, seed=1)
    assert len(calls) == 3


def test_kept_figures_are_those_of_a_batch_with_its_noise(tmp_path):
    photos = sorted(map(str, draw_pictures(tmp_path / "photos", 3).iterdir()))
    task, out = naf_hub.load_task("denoising"), tmp_path / "kept"

    def evaluate(files, out=None):
        settings = {"crop": 24, "resize": 0, "batch": 1}
        return task.evaluate({"grey": counting([])}, files, settings, progress=False, out=out)["grey"].values

    evaluate(photos, out)
    assert evaluate(photos[1:], out) == evaluate(
        photos[1:]
    )  # the second picture has the noise of the first now


def test_whole_images_of_different_sizes(tmp_path):
    Image.new("RGB", (40, 30), "red").save(tmp_path / "a.png")
    Image.new("L", (9, 5), 100).save(tmp_path / "b.png")
    report = naf_hub.load_task("denoising").evaluate(
        [naf_hub.load_restorer("ircnn", weights=None, width=8)],
        tmp_path,
        {"noise": "salt_and_pepper", "level": 0.2, "crop": 0},
        progress=False,
    )
    assert report.data["images"] == 2
    assert report["noisy"].values["psnr"] is not None
    assert report.table().splitlines()[1].startswith("restorer ")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--probability", "0.1"], "the level of gaussian noise is given by --sigma"),
        (["--noise", "salt_and_pepper"], "the level of salt_and_pepper noise is given by --probability"),
        (["--sigma", "much"], "give a number, or LOW:HIGH"),
    ],
)
def test_noise_options_that_do_not_fit_together(arguments, message):
    found = run("eval", "denoising", "--restorer", "ircnn=none", "--images", "x.png", *arguments)
    assert found.exit_code == 2
    assert message in found.output


def test_a_name_that_is_no_restorer(tmp_path):
    draw_pictures(tmp_path / "pictures", 1)
    course = naf_hub.load_task("denoising").course(
        {"images": [str(tmp_path / "pictures")], "restorer": "naf"}
    )
    with pytest.raises(naf_hub.UnknownNameError, match="'naf' names a registered upsampler, no restorer"):
        course.prepare(torch.device("cpu"), Share())


def test_pictures_that_are_trained_on_and_held_out(tmp_path):
    draw_pictures(tmp_path / "pictures", 2)
    folder = [str(tmp_path / "pictures")]
    course = naf_hub.load_task("denoising").course({**TINY, "images": folder, "held_out": folder})
    with pytest.raises(ConfigError, match="2 held-out images are also trained on"):
        course.prepare(torch.device("cpu"), Share())

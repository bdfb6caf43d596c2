"""The distillation script: what it optimises, that it learns, and that it continues where it stopped."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import naf_hub
import naf_hub_pico.distill as distillation
from naf_hub_pico.views import ViewPool, augment, crop


class Teacher(nn.Module):
    """Mean colour of each cell, in four channels, one of them dead."""

    embed_dim = 4

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        cells = nn.functional.avg_pool2d(image, 16)
        return torch.cat([cells * 4, torch.zeros_like(cells[:, :1])], dim=1)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index, size in enumerate([(128, 160), (140, 100), (130, 130), (40, 200)]):
        coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        coarse.resize(size[::-1], Image.Resampling.BICUBIC).save(folder / f"{index}.png")
    return folder


def run(images: Path, out: Path, **settings: object) -> Path:
    settings = {
        "steps": 6,
        "batch_size": 2,
        "crop_size": 64,
        "sides": (64, 96),
        "prefill": 4,
        "pool": 4,
    } | settings
    return distillation.distill(
        teacher="own", teacher_weights=None, teacher_options={}, images=[str(images)], out=out, **settings
    )  # pyright: ignore[reportArgumentType]


@pytest.fixture(autouse=True)
def teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    real = naf_hub.load_backbone

    def load(name: str, **options: object) -> nn.Module:
        return Teacher() if name == "own" else real(name, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(naf_hub, "load_backbone", load)


def entries(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]


def test_learns_and_writes_loadable_weights(images: Path, tmp_path: Path) -> None:
    folder = run(images, tmp_path / "out", steps=40, batch_size=4, lr=4e-3)
    losses = [entry["loss"] for entry in entries(tmp_path / "out")]
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    config = json.loads((folder / "config.json").read_text())
    assert config["provenance"]["steps"] == 40
    assert config["provenance"]["images"] == 4
    model = naf_hub.load_backbone("pico", weights=folder)
    with torch.no_grad():
        assert torch.isfinite(model(torch.rand(1, 3, 64, 64))).all()


def test_continues_from_its_checkpoint(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    real = distillation.Distillation.train_step

    def interrupted(self, *arguments):
        if self.step == 4 and not steps:
            steps.append(self.step)
            raise KeyboardInterrupt
        return real(self, *arguments)

    monkeypatch.setattr(distillation.Distillation, "train_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(images, tmp_path / "out", save_every=2)
    assert not (tmp_path / "out" / "weights").exists()
    run(images, tmp_path / "out", save_every=2)
    assert [entry["step"] for entry in entries(tmp_path / "out")] == [1, 2, 3, 4, 5, 6]


def test_perfect_prediction_costs_nothing_and_explains_all() -> None:
    target = torch.randn(2, 8, 3, 3)
    loss, unexplained = distillation.loss_function(target, target)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert float(unexplained) == 0
    loss, unexplained = distillation.loss_function(torch.zeros_like(target), target)
    assert float(loss) > 0.5
    assert float(unexplained) == pytest.approx(1)


def test_rate_rises_stays_and_falls_to_zero() -> None:
    rates = [distillation.rate(step, 1000) for step in range(1001)]
    assert rates[0] == 1 / 200
    assert rates[200] == rates[649] == 1
    assert rates[1000] == 0
    assert all(a >= b for a, b in itertools.pairwise(rates[650:]))


def test_dead_channels_are_left_out() -> None:
    distilled = distillation.Distillation(2, Path("unused"), 1e-3, 0.0)
    distilled.mean, distilled.std = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1e-6])
    target = distilled.standardise(torch.tensor([5.0, 1e-3]).view(1, 2, 1, 1))
    assert target.flatten().tolist() == [2.0, 0.0]


def test_crops_of_image_and_features_show_the_same_place(images: Path) -> None:
    pool = ViewPool(sorted(images.iterdir()), Teacher(), capacity=3, crop_size=64, sides=(64, 96), seed=1)
    for _ in range(5):
        pool.renew()
    assert len(pool.views) == 3
    image, target = pool.batch(3)
    assert image.shape == (3, 3, 64, 64)
    torch.testing.assert_close(target, Teacher()(image), atol=2e-3, rtol=2e-3)
    mean, std = pool.statistics()
    assert std[3] == 0
    assert mean.shape == (4,)


def test_views_fit_the_grid_and_the_range() -> None:
    rng = random.Random(0)
    for _ in range(20):
        view = augment(torch.rand(3, rng.randint(100, 300), rng.randint(100, 300)), (96, 160), 240, rng)
        assert all(side % 16 == 0 and 80 <= side <= 240 for side in view.shape[-2:])
        assert float(view.min()) >= 0
        assert float(view.max()) <= 1
        part, (top, left) = crop(view, 64, 64, rng)
        torch.testing.assert_close(part, view[:, 16 * top : 16 * top + 64, 16 * left : 16 * left + 64])


def test_small_images_only(tmp_path: Path) -> None:
    Image.new("RGB", (50, 50)).save(tmp_path / "small.png")
    pool = ViewPool([tmp_path / "small.png"], Teacher(), capacity=2, crop_size=64, sides=(64, 96), seed=0)
    with pytest.raises(ValueError, match="at least 96 pixels"):
        pool.renew()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--images", "absent"], "absent"), (["--images", ".", "--crop-size", "50"], "multiple of 16")],
)
def test_bad_arguments_are_one_line(arguments, message, images, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(images)
    code = distillation.main(
        ["--teacher", "own", "--teacher-weights", "x", "--out", str(tmp_path / "o"), *arguments]
    )
    assert code == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert message in error

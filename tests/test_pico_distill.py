"""The distillation script: what it optimises, that it learns, and that it continues where it stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from ready_python import Process, start_python
from reconstruction_world import COARSE, draw_pictures, finish, same_state, wait_for
from safetensors.torch import load_file
from torch import nn
from training_world import logged

import naf_hub
import naf_hub_pico.distill as distillation
from naf_hub.training.checkpoints import newest
from naf_hub.training.course import ALONE
from naf_hub.training.settings import ConfigError, build
from naf_hub_pico.course import Distillation, DistillSettings, Student, distillation_loss
from naf_hub_pico.views import ViewPool, augment, crop, on_pico_grid


class Teacher(nn.Module):
    """Mean colour of each cell, in four channels, one of them dead."""

    embed_dim, patch_size = 4, 16

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        cells = nn.functional.avg_pool2d(image, 16)
        return torch.cat([cells * 4, torch.zeros_like(cells[:, :1])], dim=1)


def test_teachers_of_other_patches_describe_the_same_cells() -> None:
    """A teacher of 14-pixel patches sees 14/16 of the picture's sides; its cells lie where pico's lie."""

    class Coarser(naf_hub.Backbone):
        def __init__(self) -> None:
            super().__init__(3, 14)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(image, 14)

    image = nn.functional.interpolate(torch.rand(1, 3, 4, 6), (64, 96), mode="bilinear")
    found = on_pico_grid(Coarser())(image)
    torch.testing.assert_close(found, nn.functional.avg_pool2d(image, 16), atol=0.02, rtol=0)
    assert torch.equal(on_pico_grid(Teacher())(image), Teacher()(image))  # pyright: ignore[reportArgumentType]


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
        "batch": 2,
        "crop_size": 64,
        "sides": (64, 96),
        "prefill": 4,
        "pool": 4,
    } | settings
    return distillation.distill(
        teacher="own", teacher_weights=None, images=[str(images)], out=out, progress=False, **settings
    )


@pytest.fixture(autouse=True)
def teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    real = naf_hub.load_backbone

    def load(name: str, **options: object) -> nn.Module:
        return Teacher() if name == "own" else real(name, **options)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(naf_hub, "load_backbone", load)


def test_learns_and_writes_loadable_weights(images: Path, tmp_path: Path) -> None:
    folder = run(images, tmp_path / "out", steps=40, batch=4, lr=4e-3)
    losses = [entry["loss"] for entry in logged(tmp_path / "out", "train")]
    assert len(losses) == 40
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    config = json.loads((folder / "config.json").read_text())
    assert config["provenance"]["steps"] == 40
    assert config["provenance"]["images"] == 4
    model = naf_hub.load_backbone("pico", weights=folder)
    with torch.no_grad():
        assert torch.isfinite(model(torch.rand(1, 3, 64, 64))).all()


@pytest.mark.parametrize("changes", [{}, {"pool": 3, "renew": 1.5, "accumulate": 2}])
def test_interrupted_and_resumed_equals_straight(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, float]
) -> None:
    run(images, tmp_path / "a", **changes)
    loss = Distillation.loss

    def interrupted(self: Distillation, net: nn.Module, batch: object, step: int) -> torch.Tensor:
        if step == 3:
            signal.raise_signal(signal.SIGINT)
        return loss(self, net, batch, step)  # pyright: ignore[reportArgumentType]

    with monkeypatch.context() as patch:
        patch.setattr(Distillation, "loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(images, tmp_path / "b", **changes)
    assert not (tmp_path / "b" / "weights").exists()
    run(images, tmp_path / "b", **changes)
    assert_same_runs(tmp_path / "a", tmp_path / "b", 6)


def test_pictures_in_the_folder_of_the_run_are_left_out(images: Path, tmp_path: Path) -> None:
    preview = images / "run" / "previews" / "0.png"
    preview.parent.mkdir(parents=True)
    preview.write_bytes((images / "0.png").read_bytes())
    given = [str(images), str(preview)]
    settings = build(DistillSettings, {"teacher": "own", "images": given, "crop_size": 64, "sides": [64, 96]})
    course = Distillation(settings, images / "run")
    course.prepare(torch.device("cpu"), ALONE)
    assert course.views.paths == [images / f"{i}.png" for i in range(4)]


def assert_same_runs(one: Path, other: Path, steps: int) -> None:
    left, right = (newest(out / "checkpoints") for out in (one, other))
    assert left is not None
    assert right is not None
    assert left.step == right.step == steps
    assert same_state(left.model(), right.model())
    assert same_state(left.training(), right.training())
    assert same_state(*(load_file(out / "weights" / "model.safetensors") for out in (one, other)))
    losses = [[(entry["step"], entry["loss"]) for entry in logged(out, "train")] for out in (one, other)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == steps


def test_may_be_continued_to_more_steps_but_not_with_other_settings(images: Path, tmp_path: Path) -> None:
    run(images, tmp_path / "out", steps=2)
    with pytest.raises(ConfigError, match="crop_size: 64 -> 32"):
        run(images, tmp_path / "out", steps=4, crop_size=32)
    run(images, tmp_path / "out", steps=4)
    assert [entry["step"] for entry in logged(tmp_path / "out", "train")] == [1, 2, 3, 4]


Start = Callable[..., Process]


@pytest.fixture
def start(install_plugin: Callable[..., None], tmp_path: Path) -> Iterator[Start]:
    """``start(out, *options)``: the script in a process of its own."""
    install_plugin("coarse-plugin", COARSE)
    pictures = draw_pictures(tmp_path / "pictures", 3, seed=2)
    for picture in pictures.iterdir():  # the smallest that the script takes
        Image.open(picture).resize((112, 96)).save(picture)
    path = os.pathsep.join([str(tmp_path / "coarse-plugin"), *(p for p in sys.path if p)])
    started: list[Process] = []

    def start(out: Path, *more: str) -> Process:
        arguments = [
            "--teacher",
            "coarse_backbone",
            "--teacher-weights",
            "default",
            "--images",
            str(pictures),
        ]
        arguments += ["--crop-size", "32", "--batch-size", "2", "--pool", "4", "--out", str(out), *more]
        variables = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
        process = start_python("-c", SCRIPT, *arguments, environment=variables)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


# Small views take less time.
SCRIPT = """
import functools, sys
import naf_hub_pico.distill as distillation
distillation.distill = functools.partial(distillation.distill, sides=(64, 96), prefill=4)
sys.exit(distillation.main())
"""


def test_killed_and_resumed_equals_straight(start: Start, tmp_path: Path) -> None:
    options = ("--steps", "8", "--save-every", "2")
    straight, killed = start(tmp_path / "a", *options), start(tmp_path / "b", *options)
    wait_for(lambda: newest(tmp_path / "b" / "checkpoints"), killed)
    killed.kill()
    killed.communicate()
    finish(start(tmp_path / "b", *options))
    finish(straight)
    assert_same_runs(tmp_path / "a", tmp_path / "b", 8)


def test_ctrl_c_saves_and_exits_130(start: Start, tmp_path: Path) -> None:
    process = start(tmp_path / "out", "--steps", "100000", "--save-every", "100000")
    wait_for(lambda: (tmp_path / "out" / "log.jsonl").exists() and logged(tmp_path / "out", "train"), process)
    process.send_signal(signal.SIGINT)
    _, errors = finish(process, 130)
    assert "the same command continues" in errors
    assert "Traceback" not in errors
    left = newest(tmp_path / "out" / "checkpoints")
    assert left is not None
    assert left.step == logged(tmp_path / "out", "train")[-1]["step"]


def test_perfect_prediction_costs_nothing_and_explains_all() -> None:
    target = torch.randn(2, 8, 3, 3)
    loss, unexplained = distillation_loss(target, target)
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert float(unexplained) == 0
    loss, unexplained = distillation_loss(torch.zeros_like(target), target)
    assert float(loss) > 0.5
    assert float(unexplained) == pytest.approx(1)


def test_dead_channels_are_left_out() -> None:
    student = Student(2)
    student.mean, student.std = torch.tensor([1.0, 0.0]), torch.tensor([2.0, 1e-6])
    target = student.standardise(torch.tensor([5.0, 1e-3]).view(1, 2, 1, 1))
    assert target.flatten().tolist() == [2.0, 0.0]


def view_pool(paths: list[Path], **changes: float) -> ViewPool:
    options = {"capacity": 3, "prefill": 2, "renew": 0.5, "seed": 1, **changes}
    return ViewPool(paths, Teacher(), crop_size=64, sides=(64, 96), **options)  # pyright: ignore[reportArgumentType]


def test_crops_of_image_and_features_show_the_same_place(images: Path) -> None:
    pool = view_pool(sorted(images.iterdir()))
    image, target = pool.batch(5, 3)
    assert image.shape == (3, 3, 64, 64)
    torch.testing.assert_close(target, Teacher()(image), atol=2e-3, rtol=2e-3)
    mean, std = pool.statistics()
    assert std[3] == 0
    assert mean.shape == (4,)


def test_views_enter_and_leave_a_window(images: Path) -> None:
    pool = view_pool(sorted(images.iterdir()), renew=0.1)
    assert [len(pool.window(step)) for step in (-1, 8, 9, 29)] == [2, 2, 3, 3]
    assert pool.window(29) == range(2, 5), "ten tenths are one view, however often they are added"
    pool.batch(0, 2)
    assert set(pool.views) == {0, 1}
    pool.batch(29, 3)
    assert set(pool.views) == {2, 3, 4}


def test_batches_are_pure_functions_of_the_step(images: Path) -> None:
    paths = sorted(images.iterdir())
    straight = view_pool(paths)
    batches = [straight.batch(step, 2) for step in range(9)]
    again = view_pool(paths)
    assert same_state(again.batch(7, 2), batches[7])
    assert same_state(again.batch(3, 2), batches[3])
    assert not torch.equal(batches[3][0], batches[7][0])
    halves = [view_pool(paths).batch(7, 1, place, 2)[0] for place in (0, 1)]
    assert torch.equal(torch.cat(halves), batches[7][0])


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
    with pytest.raises(ValueError, match="at least 96 pixels"):
        view_pool([tmp_path / "small.png"]).view(0)


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

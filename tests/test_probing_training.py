"""Training of the linear head."""

from __future__ import annotations

import dataclasses
import math
import signal
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from reconstruction_world import same_state
from safetensors.torch import load_file
from torch import Tensor
from training_world import logged

from naf_hub import Upsampler
from naf_hub.training.checkpoints import newest
from naf_hub.training.processes import Processes
from naf_hub.training.run import Run
from naf_hub.training.schedule import rate_factor
from naf_hub.training.settings import ConfigError
from naf_hub_probing.course import (
    HeadCourse,
    Recipe,
    fit,
    forget_checkpoints,
    plan_epochs,
)
from naf_hub_probing.head import LinearHead
from naf_hub_probing.material import batch_scores, choose_pixels
from naf_hub_probing.pairs import LabelledImage

GOLDEN = load_file(Path(__file__).parent / "goldens" / "segmentation_probe_training.safetensors")
LABELS = torch.where(GOLDEN["labels"] == 255, -1, GOLDEN["labels"].long())


def golden_head(moments: tuple[Tensor, Tensor] | None = None) -> LinearHead:
    head = LinearHead(12, 5, moments=moments)
    with torch.no_grad():
        head.conv.weight.copy_(GOLDEN["init_weight"])
        assert head.conv.bias is not None
        head.conv.bias.copy_(GOLDEN["init_bias"])
    return head


class Golden:
    """The recorded features and labels, one a step; where ``void``, labels are all ignored."""

    def __init__(self, void: tuple[int, ...] = ()) -> None:
        self.facts = {"material": "golden"}
        self.void = void

    def load(self, order, start):
        return (positions[0] for positions, _ in order[start:])

    def score(self, head: LinearHead, content: int) -> tuple[Tensor, Tensor]:
        label = LABELS[content]
        return head(GOLDEN["features"][content]), torch.full_like(
            label, -1
        ) if content in self.void else label


TWO_EPOCHS = [[([i], False) for i in range(3)], [([i], False) for i in range(3, 6)]]


def golden_course(head: LinearHead | None = None, **material) -> HeadCourse:
    recipe = Recipe(epochs=2, batch_size=1)
    return HeadCourse(head or golden_head(), TWO_EPOCHS, Golden(**material), recipe)


def test_six_steps_match_golden(tmp_path: Path) -> None:
    course = golden_course()
    course.settings = dataclasses.replace(course.settings, log_every=1)
    gradients: list[Tensor] = []
    course.head.conv.weight.register_hook(gradients.append)
    run = Run(course, tmp_path, processes=Processes("cpu"), progress=False)
    run.run()
    losses, rates = zip(*((e["loss"], e["lr"]) for e in logged(tmp_path, "train")), strict=True)
    torch.testing.assert_close(gradients[0], GOLDEN["grad_weight_step0"], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(losses), GOLDEN["losses"], atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.tensor(rates).double(), GOLDEN["lrs"], atol=1e-9, rtol=1e-5)
    final = course.settings.lr * rate_factor(course.settings, 6)
    assert final == pytest.approx(float(GOLDEN["final_lr"]), abs=1e-12)
    conv = course.head.conv
    torch.testing.assert_close(conv.weight.detach(), GOLDEN["final_weight"], atol=1e-5, rtol=0)
    torch.testing.assert_close(conv.bias, GOLDEN["final_bias"], atol=1e-5, rtol=0, check_dtype=True)


def test_every_epoch_is_kept_with_its_mean_loss() -> None:
    snapshots, losses = fit(golden_course(), torch.device("cpu"), "golden")
    torch.testing.assert_close(snapshots[1][0], GOLDEN["final_weight"][:, :, 0, 0], atol=1e-5, rtol=0)
    assert not torch.equal(snapshots[0][0], snapshots[1][0])
    torch.testing.assert_close(torch.tensor(losses), GOLDEN["losses"].view(2, 3).mean(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("step", [2, 3, 5])
def test_interrupted_and_resumed_equals_straight(step: int, tmp_path: Path) -> None:
    straight = fit(golden_course(), torch.device("cpu"), "golden")
    halted = golden_course()
    score = halted.material.score

    def interrupted(head, content):
        if content == step - 1:
            signal.raise_signal(signal.SIGINT)
        return score(head, content)

    halted.material.score = interrupted  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(KeyboardInterrupt):
        fit(halted, torch.device("cpu"), "golden", tmp_path)
    left = newest(tmp_path / "checkpoints")
    assert left is not None
    assert left.step == step
    changed = golden_course(void=(4,))
    changed.facts = {**changed.facts, "material": "other"}
    with pytest.raises(ConfigError, match="material"):
        fit(changed, torch.device("cpu"), "golden", tmp_path)
    assert same_state(fit(golden_course(), torch.device("cpu"), "golden", tmp_path), straight)
    forget_checkpoints(tmp_path)
    assert same_state(fit(golden_course(), torch.device("cpu"), "golden", tmp_path), straight)


def test_optimiser_settings() -> None:
    course = golden_course()
    course.settings = dataclasses.replace(course.settings, lr=1e-4)
    optimizer = Run(course, processes=Processes("cpu"), progress=False).optimizer
    (group,) = optimizer.param_groups
    assert isinstance(optimizer, torch.optim.AdamW)
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.9, 0.999), 1e-8, 1e-5)
    assert len(group["params"]) == 2
    assert group["lr"] == 1e-4


def test_a_batch_without_valid_pixels_changes_nothing_but_the_schedule(tmp_path: Path) -> None:
    course = golden_course(void=(0, 1, 2))
    snapshots, losses = fit(course, torch.device("cpu"), "golden", tmp_path)
    assert torch.equal(snapshots[0][0], GOLDEN["init_weight"][:, :, 0, 0])
    assert torch.equal(snapshots[0][1], GOLDEN["init_bias"])
    assert math.isnan(losses[0])
    assert math.isfinite(losses[1])
    assert not torch.equal(snapshots[1][0], snapshots[0][0])
    assert logged(tmp_path, "train")[-1]["lr"] == pytest.approx(float(GOLDEN["lrs"][5]))


def test_initialisation_depends_on_the_seed_alone() -> None:
    torch.manual_seed(1)
    before = torch.random.get_rng_state()
    first = LinearHead(12, 5, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(first.conv.weight, LinearHead(12, 5, seed=3).conv.weight)
    assert not torch.equal(first.conv.weight, LinearHead(12, 5, seed=4).conv.weight)
    assert sum(p.numel() for p in first.parameters()) == (12 + 1) * 5


def test_standardisation_is_folded_into_the_head() -> None:
    torch.manual_seed(0)
    features = torch.randn(2, 12, 4, 5) * 7 + 3
    features[:, 5] = 2.0  # a dead channel must not become infinite
    flat = features.transpose(0, 1).flatten(1)
    mean, std = flat.mean(1), flat.std(1, correction=0)
    head = golden_head((mean, std))
    scale = torch.where(std > 0, std, 1.0)[:, None, None]
    expected = head.conv((features - mean[:, None, None]) / scale)
    torch.testing.assert_close(head(features), expected, atol=1e-5, rtol=1e-5)
    weight, bias = head.folded()
    plain = F.conv2d(features, weight[:, :, None, None], bias)
    torch.testing.assert_close(plain, expected, atol=1e-5, rtol=1e-5)


def test_plan_is_seeded_and_covers_every_picture_once_an_epoch() -> None:
    recipe = Recipe(epochs=40, batch_size=2, seed=5)
    epochs = plan_epochs([3, 1, 4, 15, 9], recipe)
    assert epochs == plan_epochs([3, 1, 4, 15, 9], recipe)
    assert epochs != plan_epochs([3, 1, 4, 15, 9], Recipe(epochs=40, batch_size=2, seed=6))
    for batches in epochs:
        assert [len(batch) for batch, _ in batches] == [2, 2, 1]
        assert sorted(p for batch, _ in batches for p in batch) == [1, 3, 4, 9, 15]
    flips = [flipped for batches in epochs for _, flipped in batches]
    assert 40 < sum(flips) < 80
    still = plan_epochs([3, 1, 4, 15, 9], Recipe(epochs=40, batch_size=2, seed=5, flip=False))
    assert [[b for b, _ in e] for e in still] == [[b for b, _ in e] for e in epochs]
    assert not any(flipped for batches in still for _, flipped in batches)


class FirstPixelGuided(Upsampler):
    """Shows whether the image was mirrored: adds nothing, but scales by the image's left column."""

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return F.interpolate(features, output_size) * image[:, :1, :1, :1]


def test_mirroring_reaches_image_and_label() -> None:
    image = torch.zeros(3, 2, 4)
    image[..., -1] = 1  # bright on the right
    sample = LabelledImage(0, image, torch.tensor([[0, 1, 2, -1]] * 2))
    head = LinearHead(2, 3)
    features = torch.ones(1, 2, 1, 1)
    straight, target = batch_scores(head, FirstPixelGuided(), [sample], features, flipped=False)
    mirrored, other = batch_scores(head, FirstPixelGuided(), [sample], features, flipped=True)
    assert torch.equal(other, target.flip(-1))
    assert head.conv.bias is not None
    torch.testing.assert_close(straight, head.conv.bias[:, None, None].expand_as(straight))
    assert (mirrored - straight).abs().max() > 0.01


def test_labels_of_different_sizes_share_a_batch() -> None:
    samples = [
        LabelledImage(i, torch.ones(3, 4, 4), torch.zeros(2, n, dtype=torch.long))
        for i, n in ((0, 3), (1, 5))
    ]
    head = LinearHead(2, 3)
    scores, target = batch_scores(head, FirstPixelGuided(), samples, torch.randn(2, 2, 2, 2), False)
    assert scores.shape == (1, 3, 16)
    assert target.shape == (1, 16)


def test_chosen_pixels_are_labelled_distinct_and_seeded() -> None:
    label = torch.full((20, 30), -1)
    label[5:15] = 2
    chosen = choose_pixels(label, 100, seed=1)
    assert len(chosen.unique()) == 100
    assert (label.flatten()[chosen] == 2).all()
    assert torch.equal(chosen, choose_pixels(label, 100, seed=1))
    assert not torch.equal(chosen, choose_pixels(label, 100, seed=2))
    assert len(choose_pixels(label, 1000, seed=1)) == 300
    assert len(choose_pixels(torch.full((2, 2), -1), 5, seed=1)) == 0


@pytest.mark.parametrize(
    "wrong", [{"epochs": 0}, {"batch_size": 0}, {"train_pixels": 0}, {"lr": 0.0}, {"lr": float("nan")}]
)
def test_recipe_refuses(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Recipe(**wrong)

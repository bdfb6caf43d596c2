"""Losses: figures of the authors' code, what each sees, and the messages of texts that are none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open
from torch import Tensor

from naf_hub.training.settings import ConfigError
from naf_hub_reconstruction.changed_guidance import blurred_guidance, recoloured
from naf_hub_reconstruction.loss_terms import (
    DISTANCES,
    TERMS,
    Loss,
    parse_loss,
    scaled_squared_error,
    total_variation,
)

GOLDEN = Path(__file__).parent / "goldens" / "upsamplers" / "vit_up_losses.safetensors"


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_those_of_vit_up_are_those_of_its_authors():
    with safe_open(GOLDEN, "pt") as file:
        expected = json.loads(file.metadata()["meta"])["single"]
        found, wanted = (file.get_tensor(f"single/{name}").mT.unflatten(2, (3, 3)) for name in ("pred", "gt"))
    for name, theirs in (("standardised_mse", "l2"), ("cosine", "cos"), ("affinity", "kl")):
        assert float(DISTANCES[name](found, wanted)) == pytest.approx(expected[theirs], abs=1e-6), name


def test_scaled_error_compares_vectors_scaled_to_the_targets_range():
    output, target = drawn(2, 5, 3, 4), drawn(2, 5, 3, 4, seed=1)
    low, high = target.amin(1, keepdim=True), target.amax(1, keepdim=True)
    scaled = [(maps - low) / (high - low) for maps in (output, target)]
    assert scaled_squared_error(output, target).item() == pytest.approx(F.mse_loss(*scaled).item(), rel=1e-5)
    assert torch.isfinite(scaled_squared_error(output, torch.ones(2, 5, 3, 4)))


@pytest.mark.parametrize("name", DISTANCES)
def test_a_distance_is_zero_for_the_target_alone_and_its_gradient_finite(name: str):
    target = drawn(2, 6, 4, 4)
    output = drawn(2, 6, 4, 4, seed=1).requires_grad_()
    assert DISTANCES[name](target, target).item() == pytest.approx(0, abs=1e-5)
    found = DISTANCES[name](output, target)
    assert found > 0.01
    found.backward()
    assert torch.isfinite(output.grad).all()


def test_variation_is_that_of_neighbours():
    ramp = torch.arange(4.0).expand(1, 2, 3, 4)
    assert total_variation(ramp) == pytest.approx(9 / 12)
    assert total_variation(torch.ones(1, 2, 3, 3)) == 0


def test_weights_and_names_are_read():
    assert parse_loss("mse") == (("mse", 1.0),)
    assert parse_loss("cosine + 0.1*input+1e-3*tv") == (("cosine", 1.0), ("input", 0.1), ("tv", 1e-3))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("huber", f"no term 'huber'; terms: {', '.join(TERMS)}"),
        ("mse+", "no term ''"),
        ("mse+x*tv", "'x' is no positive number; write 0.1"),
        ("mse+0*tv", "'0' is no positive number"),
        ("0.1*input", "needs one of mse, l1"),
    ],
)
def test_what_is_no_loss_gets_one_line(text: str, message: str):
    with pytest.raises(ConfigError, match=message.replace("*", r"\*")) as error:
        parse_loss(text)
    assert "\n" not in str(error.value)


class Nearest:
    """An upsampler that adds the mean of its guidance, and remembers what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Tensor, tuple[int, int], bool]] = []
        self.shift = torch.zeros((), requires_grad=True)

    def __call__(self, guidance: Tensor, features, size: tuple[int, int]) -> Tensor:
        self.asked.append((guidance, size, torch.is_grad_enabled()))
        return F.interpolate(features, size) + guidance.mean() + self.shift


def test_terms_are_added_with_their_weights():
    guidance, low, target = torch.rand(2, 3, 8, 8), drawn(2, 5, 2, 2), drawn(2, 5, 4, 4, seed=1)
    model = Nearest()
    output = F.interpolate(low, (4, 4)) + guidance.mean()
    expected = F.mse_loss(output, target) + 0.5 * guidance.mean() ** 2 + 0.25 * total_variation(output)
    found = Loss("mse+0.5*input+0.25*tv")(model, guidance, low, target, low)
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)
    assert len(model.asked) == 1


def test_changed_guidance_is_compared_with_the_plain_result_at_its_own_size():
    torch.manual_seed(0)
    guidance, low, target = torch.rand(2, 3, 8, 8) * 0.5, drawn(2, 5, 2, 2), drawn(2, 5, 4, 4, seed=1)
    model, objective = Nearest(), Loss("2*mse+0.1*blurred")
    found = objective(model, guidance, low, target, low)
    (_, size, _), (plain, plain_size, learns), (changed, changed_size, changed_learns) = model.asked
    assert (size, plain_size, changed_size) == ((4, 4), (8, 8), (8, 8))
    assert (learns, changed_learns) == (False, True)
    apart = changed.mean() - plain.mean()
    first = 2 * F.mse_loss(F.interpolate(low, (4, 4)) + plain.mean(), target)
    assert found.item() == pytest.approx((first + 0.1 * 2 * apart**2).item(), rel=1e-5)
    found.backward()
    assert model.shift.grad is not None
    assert objective.upsamples_target
    assert not Loss("mse+0.1*input").upsamples_target


@pytest.mark.parametrize("change", [blurred_guidance, recoloured])
def test_changed_guidance_stays_an_image_and_follows_the_seed(change):
    image, found = torch.rand(2, 3, 9, 12), []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(change(image))
        assert found[-1].shape == image.shape
        assert 0 <= found[-1].min() <= found[-1].max() <= 1
        assert not torch.equal(found[-1], image)
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])


def test_blur_keeps_what_is_even_and_wipes_out_single_pixels():
    dot = torch.zeros(1, 3, 9, 9)
    dot[..., 4, 4] = 1
    torch.manual_seed(0)
    assert blurred_guidance(dot)[..., 4, 4].max() < 0.95
    assert (blurred_guidance(torch.full((1, 3, 9, 9), 0.5)) - 0.5).abs().mean() < 0.04

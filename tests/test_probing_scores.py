"""Upsampling class scores instead of features: the same result from far fewer channels."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import naf_hub
from naf_hub import Upsampler
from naf_hub.parts.linear_groups import project_groups
from naf_hub_probing.head import upsampled_scores

NAF: dict[str, Any] = {"dim": 32, "num_blocks": 1, "num_heads": 4, "rope_heads": 2, "kernel_size": 3}


def make(name: str) -> Upsampler:
    torch.manual_seed(0)
    model = naf_hub.load(name, weights=None, **NAF) if name == "naf" else naf_hub.load(name)
    return model.requires_grad_(False)


LINEAR = ["nearest", "bilinear", "bicubic", "lanczos", "joint_bilateral", "guided_filter", "naf"]


@pytest.mark.parametrize("channels", [24, 30, 21], ids=["even", "uneven", "odd"])
@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("size", [(28, 36), (19, 23), (5, 6)], ids=["integer", "fractional", "smaller"])
def test_upsampled_scores_equal_scores_of_upsampled_features(
    name: str, channels: int, size: tuple[int, int]
) -> None:
    upsampler = make(name)
    assert upsampler.promises.linear_groups == (4 if name == "naf" else 1)
    torch.manual_seed(1)
    image, features = torch.rand(2, 3, 28, 36), torch.randn(2, channels, 7, 9)
    weight, bias = torch.randn(2, channels, requires_grad=True), torch.randn(2, requires_grad=True)
    expected = F.conv2d(upsampler(image, features, size), weight[:, :, None, None], bias)
    scores = next(upsampled_scores(upsampler, image, features, size, [(weight, bias)]))
    torch.testing.assert_close(scores, expected, atol=2e-5, rtol=1e-5)
    # The probe learns through the upsampling: gradients must agree too.
    along = torch.randn_like(expected)
    for one, other in zip(
        torch.autograd.grad((scores * along).sum(), (weight, bias)),
        torch.autograd.grad((expected * along).sum(), (weight, bias)),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=2e-3, rtol=1e-4)


def test_one_group_too_few_is_wrong_for_naf() -> None:
    upsampler = make("naf")
    torch.manual_seed(1)
    image, features = torch.rand(1, 3, 28, 36), torch.randn(1, 24, 7, 9)
    head = (torch.randn(2, 24), torch.zeros(2))
    right = next(upsampled_scores(upsampler, image, features, (28, 36), [head]))
    upsampler.promises = naf_hub.Promises(linear_groups=1)
    wrong = next(upsampled_scores(upsampler, image, features, (28, 36), [head]))
    assert (right - wrong).abs().max() > 1e-2


def test_group_scores_sum_to_the_head_even_with_empty_groups() -> None:
    features, weight = torch.randn(2, 3, 4, 5), torch.randn(7, 3)
    scores = project_groups(features, weight, 5)  # five groups of three channels: two are empty
    assert scores.shape == (2, 35, 4, 5)
    expected = F.conv2d(features, weight[:, :, None, None])
    torch.testing.assert_close(scores.unflatten(1, (5, 7)).sum(1), expected)


class Counting(Upsampler):
    """Bilinear; notes how many channels each call had."""

    def __init__(self, groups: int | None, factor: int = 1) -> None:
        super().__init__()
        self.promises = naf_hub.Promises(linear_groups=groups)
        self.factor = factor
        self.calls: list[int] = []

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        self.calls.append(features.shape[1])
        size = (output_size[0] // self.factor, output_size[1] // self.factor)
        return F.interpolate(features, size, mode="bilinear")


@pytest.mark.parametrize(
    ("groups", "heads", "channels"),
    [(1, 1, 3), (2, 1, 6), (2, 3, 18), (2, 4, 20), (None, 1, 20), (None, 4, 20), (7, 1, 20)],
)
def test_one_call_whichever_way_is_narrower(groups: int | None, heads: int, channels: int) -> None:
    torch.manual_seed(0)
    upsampler = Counting(groups)
    features = torch.randn(1, 20, 4, 5)
    weights = [(torch.randn(3, 20), torch.randn(3)) for _ in range(heads)]
    scores = list(upsampled_scores(upsampler, torch.rand(1, 3, 8, 10), features, (8, 10), weights))
    assert upsampler.calls == [channels]
    assert len(scores) == heads
    large = F.interpolate(features, (8, 10), mode="bilinear")
    for got, (weight, bias) in zip(scores, weights, strict=True):
        expected = F.conv2d(large, weight[:, :, None, None], bias)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-5)

"""FeatUp's network fitted to one image: the authors' layers, seeds, gradients, progress."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from naf_hub.testing.random_backbone import RandomBackbone
from naf_hub_featup.implicit import Implicit
from naf_hub_featup.implicit_network import implicit_network

SMALL = {"views": 4, "steps": 3, "batch": 2, "components": 4, "n_freqs": 3}


def test_the_network_is_the_authors():
    stored = load_file(Path(__file__).parent / "goldens" / "upsamplers" / "featup.safetensors")
    golden = {k.removeprefix("implicit."): v for k, v in stored.items() if k.startswith("implicit.")}
    model = implicit_network(16, n_freqs=6).eval()
    model.load_state_dict({k.removeprefix("state."): v for k, v in golden.items() if k.startswith("state.")})
    with torch.no_grad():
        found = model[:2](golden["image"])
        torch.testing.assert_close(found, golden["fourier_features"], atol=2e-5, rtol=0)
        torch.testing.assert_close(model(golden["image"]), golden["output"], atol=2e-5, rtol=0)
    assert sum(p.numel() for p in implicit_network(128, n_freqs=30).parameters()) == 73_098


@pytest.fixture(scope="module")
def image() -> torch.Tensor:
    return torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(0))


def test_a_seed_decides_everything_and_that_of_the_caller_stays(image):
    backbone, state = RandomBackbone(8, (4, 4), (24, 24)), torch.get_rng_state()

    def fitted(seed: int) -> torch.Tensor:
        model = Implicit(**SMALL, seed=seed)
        return model(image, model.gather(image, backbone))

    first = fitted(3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(99)
    assert torch.equal(fitted(3), first)
    assert not torch.equal(fitted(4), first)


def test_no_gradient_leaks(image):
    backbone, guide = torch.nn.Conv2d(3, 8, 6, 6), image.clone().requires_grad_()
    model = Implicit(**SMALL)
    features = model.gather(guide, backbone)
    assert not features["views"].requires_grad  # a graph through each of thousands of views
    assert not model(guide, features).requires_grad
    assert guide.grad is None
    assert all(p.grad is None for p in backbone.parameters())


def test_progress_is_shown_where_asked(image, capsys):
    features = torch.randn(1, 8, 4, 4)
    for progress in (True, False):
        Implicit(**SMALL, progress=progress)(image, features)
        assert ("featup_implicit: fit" in capsys.readouterr().err) == progress

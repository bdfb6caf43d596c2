"""Denoisers through the registry: what all restorers promise, budgets, and sizes that networks do not take."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import naf_hub
from naf_hub.testing import RESTORER_CHECKS, check_restorer
from naf_hub_denoisers.noise_predictor import NoisePredictor

# Full-size constructor options would only make the same promises slower to check.
SMALL: dict[str, dict] = {
    "naf_denoiser": {"dim": 16, "num_blocks": 1, "kernel_size": 5},
    "dncnn": {"width": 8, "depth": 3},
    "ircnn": {"width": 8},
    "rednet": {"width": 8, "depth": 3},
    "restormer": {"dim": 8, "num_blocks": (1, 1, 1, 1), "num_refinement_blocks": 1},
}


def small(name: str, **options) -> naf_hub.Restorer:
    torch.manual_seed(0)
    return naf_hub.load_restorer(name, weights=None, **SMALL[name], **options)


@pytest.mark.parametrize("check", RESTORER_CHECKS)
@pytest.mark.parametrize("name", SMALL)
def test_restorer(name: str, check: str):
    check_restorer(name, checks=[check], **SMALL[name])


@pytest.mark.parametrize("name", SMALL)
def test_results_do_not_depend_on_memory(name: str):
    image = torch.rand(2, 3, 70, 21)
    whole, cut = small(name), small(name, memory="2kB")
    calls = []
    cut.register_forward_hook(lambda *_: calls.append("restored"))
    if isinstance(cut, NoisePredictor):
        noise = cut.noise
        cut.noise = lambda strip: calls.append(strip.shape) or noise(strip)
        assert cut.reach < 35
    assert float((cut(image) - whole(image)).abs().max()) < 1e-5
    if isinstance(cut, NoisePredictor):
        assert len(calls) > 3, "the image was not cut"


@pytest.mark.parametrize(("name", "multiple"), [("rednet", 2), ("restormer", 8)])
def test_other_sizes_are_padded_by_their_border(name: str, multiple: int):
    model, image = small(name), torch.rand(1, 3, 13, 18)
    padded = torch.nn.functional.pad(image, (0, -18 % multiple, 0, -13 % multiple), mode="replicate")
    assert torch.equal(model(image), model(padded)[..., :13, :18])


def test_parameters_of_the_docs_and_of_the_paper():
    page = (Path(__file__).parent.parent / "docs" / "denoise.md").read_text(encoding="utf-8")
    counted = dict(re.findall(r"^\| `(\w+)` \| ([\d,]{5,}) \|", page, re.MULTILINE))
    paper = dict(re.findall(r"^\| `(\w+)` \| (\d+\.\d\d) \|", page, re.MULTILINE))
    for name in SMALL:
        with torch.device("meta"):
            model = naf_hub.load_restorer(name, weights=None)
        count = sum(p.numel() for p in model.parameters())
        assert (counted[name], paper[name]) == (f"{count:,}", f"{count / 1e6:.2f}")


def test_half_precision_images_pass_through_models_of_full_precision():
    image = torch.rand(1, 3, 16, 16)
    for name in SMALL:
        model = small(name)
        restored = model(image.bfloat16())
        assert restored.dtype == torch.bfloat16
        assert float((restored.float() - model(image.bfloat16().float())).abs().max()) < 0.02


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("naf_denoiser", {"kernel_size": 4}, "kernel_size must be odd and positive, got 4"),
        ("naf_denoiser", {"memory": "much"}, "memory must be a positive number of bytes"),
        ("dncnn", {"depth": 1}, "depth must be at least 2, got 1"),
        ("rednet", {"depth": 1}, "depth must be at least 2, got 1"),
        ("restormer", {"heads": (1, 2)}, "num_blocks and heads need four numbers each"),
        ("restormer", {"dim": 6, "heads": (4, 4, 4, 4)}, "dim must be even, and heads divide"),
    ],
)
def test_options_that_make_no_sense(name: str, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        naf_hub.load_restorer(name, weights=None, **options)

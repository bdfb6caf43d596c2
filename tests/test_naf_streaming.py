"""The streamed guidance encoder against the plain one, and the memory and arithmetic it promises."""

from __future__ import annotations

import copy

import pytest
import skimage.data
import torch
from naf_reference import released_state
from torch import nn

import naf_hub
import naf_hub_naf.model
from naf_hub.parts import freed_memory
from naf_hub_naf.encoder import GuidanceEncoder
from naf_hub_naf.model import NAF
from naf_hub_naf.strips import Moments, stream_guidance

SHAPES = [
    ((40, 37), (40, 37)),  # guidance at image size
    ((33, 20), (10, 7)),  # pooled, bins overlap
    ((9, 8), (20, 21)),  # pooled upwards
    ((1, 1), (1, 1)),
    ((1, 9), (4, 5)),
    ((7, 1), (7, 1)),
    ((2, 2), (2, 2)),
]
OPTIONS = [{}, {"residual": True}, {"encoder": "pixel"}, {"num_blocks": 0}, {"num_blocks": 1}]


def encoder(**options) -> GuidanceEncoder:
    torch.manual_seed(0)
    return GuidanceEncoder(**{"dim": 32, "num_blocks": 2} | options).eval()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize(("size", "output"), SHAPES)
def test_equals_the_plain_encoder(options, size, output):
    model, image = encoder(**options), torch.randn(2, 3, *size)
    with torch.no_grad():
        exact = copy.deepcopy(model).double()(image.double(), output)
        for strip in (1, 1000, 2000, 5000, 2**20):
            streamed = stream_guidance(model, image, output, strip)
            assert streamed.shape == exact.shape
            assert (streamed - exact).abs().max() < 1e-5, strip
            precise = stream_guidance(copy.deepcopy(model).double(), image.double(), output, strip)
            assert (precise - exact).abs().max() < 1e-12, strip


def test_released_configuration():
    model = NAF().eval()
    model.load_state_dict(released_state())
    image = torch.randn(1, 3, 64, 56)
    with torch.no_grad():
        exact = copy.deepcopy(model.image_encoder).double()(image.double(), (64, 56))
        plain = model.image_encoder(image, (64, 56))
        streamed = model.guidance(image, (64, 56))
    assert (streamed - exact).abs().max() < max(2 * float((plain - exact).abs().max()), 1e-5)


WAYS = ("fill_rows", "assemble_guidance", "stream_guidance")
WIDE, FLAT, UNEVEN = ((40, 36), (10, 9), (40, 36)), ((96, 80), (9, 8), (24, 20)), ((33, 20), (5, 6), (61, 47))


@pytest.mark.parametrize(
    ("options", "sizes", "memory", "way"),
    [
        ({}, WIDE, 60_000, "fill_rows"),
        ({}, WIDE, 300_000, "fill_rows"),  # with a branch in memory
        ({}, WIDE, "64MiB", "stream_guidance"),
        ({}, WIDE, None, "stream_guidance"),
        ({}, FLAT, 500_000, "assemble_guidance"),
        ({"guidance_scale": 1}, FLAT, 500_000, "stream_guidance"),
        ({}, UNEVEN, 200_000, "fill_rows"),
        ({"residual": True, "num_blocks": 1}, UNEVEN, 500_000, "fill_rows"),
        ({"pooling": "max"}, UNEVEN, 400_000, "assemble_guidance"),
        ({}, ((30, 40), (20, 9), (12, 11)), 40_000, "fill_rows"),  # fewer rows than the features have
    ],
    ids=str,
)
def test_budget_does_not_change_results(monkeypatch, options, sizes, memory, way):
    torch.manual_seed(0)
    model = NAF(dim=32, memory=memory, **options).eval()
    image, features = torch.rand(2, 3, *sizes[0]), torch.randn(2, 8, *sizes[1])
    taken = []
    for name in WAYS:
        real = getattr(naf_hub_naf.model, name)
        monkeypatch.setattr(
            naf_hub_naf.model, name, lambda *a, real=real, name=name: taken.append(name) or real(*a)
        )
    with torch.no_grad():
        expected = copy.deepcopy(model).double()
        expected.memory = None
        expected = expected(image.double(), features.double(), sizes[2])
        taken.clear()
        assert (model(image, features, sizes[2]) - expected).abs().max() < 1e-4
        assert taken == [way]
        points = torch.tensor([[0, 0], [sizes[2][1] - 1, sizes[2][0] - 1], [5, 7]])
        there = expected[:, :, points[:, 1], points[:, 0]]
        assert (model.features_at(image, features, points, sizes[2]) - there).abs().max() < 1e-4


@pytest.mark.parametrize("add", [Moments.add, Moments.add_rows])
def test_statistics_far_from_zero(add):
    """One-pass sums of squares lose all digits here; these must not."""
    maps = 1e4 + torch.randn(50, 40, 16)
    moments = Moments()
    for strip in maps.split(7):
        add(moments, strip)
    norm = nn.GroupNorm(8, 16)
    scale, shift = moments.affine(norm)
    deviation = maps.double().flatten(0, 1).unflatten(1, (8, 2)).var(dim=(0, 2), correction=0).sqrt()
    assert torch.allclose(scale.double(), (1 / deviation).repeat_interleave(2), rtol=1e-4)
    assert (maps.double() * scale + shift).flatten(0, 1).mean(dim=0).abs().max() < 0.2


def test_streams_only_where_it_may(monkeypatch):
    model = NAF(dim=32, num_blocks=1).eval()
    image, features = torch.rand(1, 3, 16, 16), torch.randn(1, 8, 4, 4)
    calls = []
    real = stream_guidance
    monkeypatch.setattr("naf_hub_naf.model.stream_guidance", lambda *a: calls.append(1) or real(*a))
    model(image, features)
    assert not calls  # gradients are wanted
    with torch.no_grad():
        model(image, features)
    assert len(calls) == 1


def largest_and_mean(found, wanted):
    gap = (found.float() - wanted).abs()
    return float(gap.max()), float(gap.mean())


def test_statistics_of_rows_in_half_precision():
    maps = (3 + torch.randn(50, 40, 16)).bfloat16()
    found, wanted = Moments(), Moments()
    found.add_rows(maps)
    wanted.add(maps.double())
    norm = nn.GroupNorm(4, 16)
    for one, other in zip(found.affine(norm), wanted.affine(norm), strict=True):
        assert torch.allclose(one.double(), other.double(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("way", ["autocast", "precision", "weights"])
def test_maps_in_bfloat16_where_that_is_fast(way, monkeypatch):
    """Convolutions see bfloat16; on unit-variance features the result is within 0.03 (mean 0.003) of float32."""
    monkeypatch.setattr("naf_hub.parts.precision.has_fast_half", lambda *_: True)
    monkeypatch.setattr("naf_hub_naf.model.has_fast_half", lambda *_: True)
    model = naf_hub.load("naf", precision="bf16" if way == "precision" else "fp32")
    torch.manual_seed(0)
    image, features = skimage.data.astronaut()[:96, 160:256], torch.randn(1, 64, 6, 6)
    image = torch.from_numpy(image).permute(2, 0, 1)[None] / 255
    exact = naf_hub.load("naf")(image, features)
    seen = set()
    real = torch.nn.functional.conv2d
    monkeypatch.setattr(
        "torch.nn.functional.conv2d", lambda x, *a, **k: seen.add(x.dtype) or real(x, *a, **k)
    )
    with torch.autocast("cpu", torch.bfloat16, enabled=way == "autocast"):
        found = (model.bfloat16() if way == "weights" else model)(image, features)
    assert seen == {torch.bfloat16}
    largest, mean = largest_and_mean(found, exact)
    assert 0 < largest < 0.03
    assert mean < 0.003


def test_maps_stay_in_float32_where_bfloat16_is_slow(monkeypatch):
    monkeypatch.setattr("naf_hub.parts.precision.has_fast_half", lambda *_: False)
    monkeypatch.setattr("naf_hub_naf.model.has_fast_half", lambda *_: False)
    image, features = torch.rand(1, 3, 16, 16), torch.randn(1, 8, 4, 4)
    exact = naf_hub.load("naf")(image, features)
    with pytest.warns(UserWarning, match="no instructions for bfloat16"):
        found = naf_hub.load("naf", precision="bf16")(image, features)
    assert torch.equal(found, exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(naf_hub.load("naf")(image, features), exact)
    # The weights are rounded, nothing else is.
    image, features = image.bfloat16(), features.bfloat16()
    found = naf_hub.load("naf").bfloat16()(image, features)
    exact = naf_hub.load("naf").bfloat16().float()(image.float(), features.float())
    assert found.dtype == torch.bfloat16
    assert largest_and_mean(found, exact)[0] < 0.02


def test_training_in_bf16_has_gradients(monkeypatch):
    monkeypatch.setattr("naf_hub_naf.model.has_fast_half", lambda *_: True)
    model = NAF(dim=32, num_blocks=1, precision="bf16").train()
    model(torch.rand(1, 3, 16, 16), torch.randn(1, 8, 4, 4)).square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())


def test_floor_is_the_convolutions_of_the_blocks():
    model = NAF(dim=32, num_blocks=2).eval()
    image, features = torch.rand(1, 3, 24, 20), torch.randn(1, 8, 6, 5)
    label, run = model.bench_floor(image, features, (24, 20))
    assert label == "bare convolutions"
    with torch.profiler.profile() as profile:
        run()
    assert sum(e.name == "aten::conv2d" for e in profile.events()) == 8


def test_what_strips_freed_goes_back_to_the_system(monkeypatch):
    """glibc before 2.38 let a process grow without end here."""
    returned = []
    monkeypatch.setattr(freed_memory, "OFTEN", 2**16)
    monkeypatch.setattr(freed_memory, "return_freed_memory", lambda: returned.append(1))
    model = naf_hub.load("naf", weights=None, dim=32, num_blocks=1, kernel_size=3, memory="64KiB")
    model(torch.rand(1, 3, 64, 64), torch.rand(1, 4, 4, 4))
    assert returned
    freed_memory.Allocated().add(2**16 - 1)
    returned.clear()
    naf_hub.load("naf", weights=None, dim=32, num_blocks=1, kernel_size=3)(
        torch.rand(1, 3, 64, 64), torch.rand(1, 4, 4, 4)
    )
    assert not returned, "whole maps need none"

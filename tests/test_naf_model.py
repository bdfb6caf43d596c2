"""NAF as a module: options, parameter counts, state dicts, dtypes, compilers and error messages."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from naf_reference import released_state

import naf_hub
from naf_hub.parts.budget import parse_bytes
from naf_hub_naf.attention import CrossScaleAttention
from naf_hub_naf.model import NAF

ROOT = Path(__file__).parent.parent


def count(model) -> int:
    return sum(p.numel() for p in model.parameters())


def small(**options) -> NAF:
    torch.manual_seed(0)
    return NAF(**{"dim": 32, "num_blocks": 1} | options).eval()


def example(batch=1, size=(20, 24), grid=(5, 6), channels=8, dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    image = torch.rand(batch, 3, *size, generator=generator)
    return image.to(dtype), torch.randn(batch, channels, *grid, generator=generator).to(dtype)


PARAMETERS = {
    (64, 1): 21_888, (64, 5): 105_344, (96, 3): 141_504, (128, 2): 167_424, (256, 1): 333_312,
    (256, 2): 662_528, (256, 4): 1_320_960, (512, 2): 2_635_776, (768, 5): 14_780_928, (1024, 2): 10_514_432,
}  # fmt: skip


@pytest.mark.parametrize(("dim", "blocks"), PARAMETERS)
def test_parameter_counts(dim, blocks):
    with torch.device("meta"):
        assert count(NAF(dim=dim, num_blocks=blocks)) == PARAMETERS[dim, blocks]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"encoder": "pixel"}, 266_240),
        ({"residual": True}, 662_528),
        ({"pooling": "max"}, 662_528),
        ({"pooling": "bilinear"}, 662_528),
        ({"pooling": "average_conv"}, 662_528 + 65_792),
        ({"spatial": "none"}, 662_528),
        ({"spatial": "gaussian"}, 662_529),
        ({"spatial": "manhattan"}, 662_529),
    ],
)
def test_parameter_counts_of_ablations(options, expected):
    assert count(NAF(**options)) == expected


def test_state_dict_is_the_released_one():
    model, state = NAF(), released_state()
    ours = model.state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in state.items()}
    model.load_state_dict(state, strict=True)
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())
    with pytest.raises(RuntimeError, match="Missing key"):
        NAF(num_blocks=3).load_state_dict(state)


def test_records_and_loading():
    model = naf_hub.load("naf", weights=None, dim=32, num_blocks=1, num_heads=2, kernel_size=5)
    assert isinstance(model, NAF)
    assert not model.training
    assert (model.num_heads, model.kernel_size) == (2, 5)
    assert dict(naf_hub.info("naf_plus_plus").options) == {"dim": 768, "num_blocks": 5}


@pytest.mark.parametrize("pooling", ["average", "max", "bilinear", "average_conv"])
@pytest.mark.parametrize("spatial", ["rope", "none", "gaussian", "manhattan"])
@pytest.mark.parametrize("encoder", ["dual", "pixel"])
def test_every_combination_of_options(pooling, spatial, encoder):
    model = small(pooling=pooling, spatial=spatial, encoder=encoder, residual=True)
    image, features = example(batch=2)
    features.requires_grad_()
    output = model(image, features)
    output.square().mean().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    with torch.no_grad():  # the streamed encoder and the in-place rotation
        assert torch.allclose(model(image, features), output, atol=1e-4)
        assert torch.allclose(model(image, torch.ones_like(features)), torch.ones(()), atol=1e-5)


def test_pooling_of_keys():
    queries = torch.randn(1, 32, 20, 24)
    assert torch.equal(small(pooling="max").pool(queries, (5, 6)), F.max_pool2d(queries, 4))
    assert torch.allclose(small().pool(queries, (5, 6)), F.avg_pool2d(queries, 4), atol=1e-6)
    model = small(pooling="average_conv")
    expected = model.key_encoder(F.avg_pool2d(queries, 4))
    assert torch.allclose(model.pool(queries, (5, 6)), expected, atol=1e-5)
    middle = queries.unflatten(3, (6, 4)).unflatten(2, (5, 4))[:, :, :, 1:3, :, 1:3].mean(dim=(3, 5))
    assert torch.allclose(small(pooling="bilinear").pool(queries, (5, 6)), middle, atol=1e-5)


@pytest.mark.parametrize("metric", ["gaussian", "manhattan"])
def test_scores_weighted_by_distance(metric):
    """Scores equal those without spatial encoding times exp(-d^2 / (2 sigma^2)), d in cells."""
    plain, weighted = small(spatial="none", kernel_size=3), small(spatial=metric, kernel_size=3)
    weighted.load_state_dict(plain.state_dict() | {"distance.sigma": torch.tensor(0.7)})
    image, _ = example()
    before, after = (m.attention_logits(image, (5, 6)) for m in (plain, weighted))
    y, x = 9, 0  # row 9 lies in cell row 2 (centre 9.5); column 0 in cell column 0, whose window is shifted
    dy = torch.tensor([9.5 / 4 - 0.5 - c for c in (1, 2, 3)])[:, None]
    dx = torch.tensor([0.5 / 4 - 0.5 - c for c in (0, 1, 2)])[None]
    distance = (dy**2 + dx**2).sqrt() if metric == "gaussian" else dy.abs() + dx.abs()
    expected = before[0, :, y, x] * torch.exp(-(distance**2) / (2 * 0.7**2)).flatten()
    assert torch.allclose(after[0, :, y, x], expected, atol=1e-5)


@pytest.mark.parametrize("size", [(20, 24), (23, 31)])
def test_scores_lowered_by_distance(size):
    """Scores equal the published ones less d^2 / (2 locality^2), d in cells, in every way to compute them."""
    plain, local = small(), small(locality=0.7)
    local.load_state_dict(plain.state_dict())
    image, features = example()
    before, after = (m.attention_logits(image, (5, 6), size) for m in (plain, local))
    if size == (20, 24):  # each slot is another cell, and the window is the grid
        dy, dx = (
            ((torch.arange(side) + 0.5) * cells / side - 0.5)[:, None] - torch.arange(cells)
            for side, cells in zip(size, (5, 6), strict=True)
        )
        squared = dy[:, None, :, None] ** 2 + dx[None, :, None] ** 2
        expected = before - (squared / (2 * 0.7**2)).flatten(2)
        assert torch.allclose(after, expected, atol=1e-4)
    with torch.no_grad():
        queries, keys, values = local.operands(local.normalize(image), features, size)
        options = {"heads": 4, "kernel_size": local.kernel_size, "memory": 2**20, "locality": 0.7}
        fused = CrossScaleAttention(queries, keys, values, fused=True, **options).output()
        assert torch.allclose(local(image, features, size), fused.permute(0, 3, 1, 2), atol=1e-5)
        assert not torch.allclose(local(image, features, size), plain(image, features, size), atol=1e-2)


def test_attention_logits():
    model = small()
    image, features = example(batch=2)
    logits = model.attention_logits(image, features)
    assert logits.shape == (2, 4, 20, 24, 30)  # the window is clipped to the 5x6 grid
    assert torch.equal(logits, model.attention_logits(image, (5, 6), (20, 24)))
    probabilities = logits.softmax(-1).unflatten(-1, (5, 6))
    mixed = torch.einsum("bnyxij,bncij->bncyx", probabilities, features.unflatten(1, (4, 2)))
    assert torch.allclose(model(image, features), mixed.flatten(1, 2), atol=1e-5)
    with pytest.raises(ValueError, match="image"):
        model.attention_logits(image[:, :2], features)


def test_weights_come_from_the_image_alone():
    model, (image, features) = small(), example()
    scaled = model(image, 3 * features - 1)
    assert torch.allclose(scaled, 3 * model(image, features) - 1, atol=1e-4)
    assert not torch.allclose(model(image.flip(-1), features), model(image, features), atol=1e-2)


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (30, 1), (2, 2), (200, 3)])
def test_images_of_any_size(size):
    model = small()
    image, features = torch.rand(1, 3, *size), torch.randn(1, 8, 3, 4)
    plain = model(image, features, (12, 16))
    with torch.no_grad():
        assert torch.allclose(model(image, features, (12, 16)), plain, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_dtypes(dtype):
    model, (image, features) = small(), example()
    exact = copy.deepcopy(model).double()(image.double(), features.double())
    model = model.to(dtype)
    with torch.no_grad():
        output = model(image.to(dtype), features.to(dtype))
        mixed = model(image, features)
    assert output.dtype == dtype
    assert mixed.dtype == torch.float32
    bound = {torch.float64: 1e-9, torch.bfloat16: 0.1, torch.float16: 0.02}[dtype]
    assert (output - exact).abs().max() < bound
    assert model.image_encoder.rope.periods.dtype == (dtype if dtype == torch.float64 else torch.float32)


@pytest.mark.parametrize("gradients", [False, True])
def test_autocast(gradients):
    model, (image, features) = small(), example()
    exact = model(image, features)
    with torch.set_grad_enabled(gradients), torch.autocast("cpu", torch.bfloat16):
        output = model(image, features)
    assert output.dtype == torch.float32
    assert (output - exact).abs().max() < 0.1
    if gradients:
        output.sum().backward()


@pytest.mark.parametrize(("size", "grid"), [((20, 24), (5, 6)), ((16, 16), (16, 16)), ((27, 25), (10, 11))])
def test_export(size, grid):
    model, (image, features) = small(), example(size=size, grid=grid)
    with torch.no_grad():
        program = torch.export.export(model, (image, features, size), strict=False)
        other = image.flip(-1)
        assert torch.allclose(program.module()(other, features, size), model(other, features), atol=1e-5)


def test_compile_without_graph_breaks():
    model = small()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    for size, grid in (((12, 16), (3, 4)), ((15, 13), (6, 7))):
        image, features = example(size=size, grid=grid)
        assert torch.allclose(compiled(image, features), model(image, features), atol=1e-5)


def test_inputs_stay_as_they_were():
    model, (image, features) = small(), example(size=(20, 24))
    copies = image.clone(), features.clone()
    with torch.no_grad():
        first = model(image, features)
        assert torch.equal(first, model(image, features))
    assert torch.equal(image, copies[0])
    assert torch.equal(features, copies[1])


def test_training_rescale_changes_the_output():
    model, (image, features) = small().train(), example()
    assert not torch.equal(model(image, features), model(image, features))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 40, "rope_heads": 1}, "multiple of 16"),
        ({"dim": 48, "rope_heads": 5}, "multiple of 4"),
        ({"dim": 32, "num_heads": 3}, "num_heads must divide dim"),
        ({"kernel_size": 4}, "odd"),
        ({"kernel_size": 0}, "odd"),
        ({"num_blocks": -1}, "num_blocks"),
        ({"pooling": "median"}, "average, max, bilinear, average_conv"),
        ({"spatial": "laplace"}, "rope, none, gaussian, manhattan"),
        ({"locality": 0.0}, "positive number of cells or None"),
        ({"encoder": "triple"}, "'dual' or 'pixel'"),
        ({"rope_base": 0.0}, "rope_base"),
        ({"rope_rescale": 0.5}, "rope_rescale"),
        ({"memory": "lots"}, "512MiB"),
        ({"memory": 0}, "positive"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        NAF(**options)


def test_budgets_in_words():
    assert parse_bytes("512MiB") == 512 * 2**20
    assert parse_bytes("2 GB") == 2 * 10**9
    assert parse_bytes("1.5k") == 1500
    assert parse_bytes("100") == parse_bytes(100) == 100


def test_an_image_that_was_normalised_already():
    """``normalize=False`` takes the image as it is, and does not mind its range."""
    image, features = example()
    ours, theirs = small(), small(normalize=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        torch.testing.assert_close(theirs(naf_hub.Normalize()(image), features), ours(image, features))


def test_the_hub_entry_is_called_as_the_authors_is():
    options = {"dim": 32, "heads_attn": 2, "heads_rope": 1, "img_layers": 1, "kernel_size": 3}
    model = torch.hub.load(str(ROOT), "naf", source="local", pretrained=False, trust_repo=True, **options)
    assert not model.training
    twin = NAF(dim=32, num_heads=2, rope_heads=1, num_blocks=1, kernel_size=3).eval().requires_grad_(False)
    twin.load_state_dict(model.state_dict())
    image, features = example()
    expected = twin.filter(image, features, (20, 24))
    assert torch.equal(model(image, features, (20, 24)), expected)
    output, logits = model(image, features, (20, 24), return_weights=True)
    assert torch.equal(output, expected)
    torch.testing.assert_close(logits, twin.filter_with_logits(image, features, (20, 24))[1])
    assert not torch.allclose(expected, twin(image, features, (20, 24)))


def test_the_hub_entry_behind_a_backbone_is_a_pipeline():
    model = torch.hub.load(str(ROOT), "naf", source="local", backbone="pico", trust_repo=True)
    assert isinstance(model, naf_hub.FeaturePipeline)
    assert model.upsampler.origin.label == "naf"  # pyright: ignore

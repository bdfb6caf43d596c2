"""CARAFE, SAPA and DySample behind the interface: repetition, any size, channels of the backbone, training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from formula_weights import formula_state
from safetensors.torch import load_file
from torch import Tensor

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.parts.strip_layer import count_doublings
from naf_hub.testing import check_upsampler
from naf_hub_dynamic.carafe import CARAFE
from naf_hub_dynamic.dysample import DySample
from naf_hub_dynamic.sapa import SAPA

GOLDENS = Path(__file__).parent / "goldens" / "upsamplers"
OUTPUT = 1e-5
NAMES = ("carafe", "dysample", "sapa")


def tensors(file: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{file}.safetensors")


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def parameters(found: dict[str, Tensor]) -> dict[str, Tensor]:
    return {key.removeprefix("param/"): value for key, value in found.items() if key.startswith("param/")}


def test_four_layers_of_carafe_are_featups():
    found, model = tensors("carafe_stack_formula"), CARAFE(6, up_kernel=3, layers=4).requires_grad_(False)
    model.load_state_dict(formula_state(model.state_dict()))
    features, image = found["stack/in/features"], torch.rand(1, 3, 8, 8)
    for step, name in enumerate(("mid/step1", "mid/step2", "mid/step3", "out"), start=1):
        assert apart(model(image, features, (2 << step, 3 << step)), found[f"stack/{name}"]) < OUTPUT


@pytest.mark.parametrize("case", ["div", "nondiv"])
def test_four_layers_of_sapa_are_featups(case: str):
    found, model = tensors("sapa_stack"), SAPA(8, layers=4).requires_grad_(False)
    model.load_state_dict({**model.state_dict(), **parameters(found)})
    image, features = found[f"{case}/in/image"], found[f"{case}/in/features"]
    for step, name in enumerate(("mid/step1", "mid/step2", "mid/step3", "out"), start=1):
        output = found[f"{case}/{name}"]
        assert apart(model.filter(image, features, tuple(output.shape[-2:])), output) < OUTPUT, step


def test_one_layer_of_dysample_repeats():
    found = tensors("dysample_iter")
    model = DySample(12, dyscope=True).requires_grad_(False)
    model.load_state_dict({f"up1.{key}": value for key, value in parameters(found).items()})
    for step in (1, 2, 3):
        output = found[f"iter/out/step{step}"]
        made = model(torch.rand(1, 3, 8, 8), found["iter/in/features"], tuple(output.shape[-2:]))
        assert apart(made, output) < OUTPUT, step


def test_counts_of_doublings():
    assert [count_doublings((4, 5), size) for size in ((4, 5), (2, 1), (5, 5), (8, 10), (8, 11), (64, 9))] == [
        0, 0, 1, 1, 2, 4,
    ]  # fmt: skip


def test_parameters_are_those_of_the_papers():
    counts = {
        name: [
            sum(p.numel() for p in naf_hub.load(name, weights=None, channels=c).parameters())
            for c in (384, 768)
        ]
        for name in NAMES
    }
    assert counts == {"carafe": [82340, 106916], "dysample": [12320, 24608], "sapa": [25670, 51014]}
    assert sum(p.numel() for p in CARAFE(384, up_kernel=3, layers=4).parameters()) == 4 * (64 * 384 + 20836)


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 40, 52, generator=generator), torch.randn(2, 8, 4, 5, generator=generator)


def make(name: str, **options) -> naf_hub.Upsampler:
    """Weights far from their start, with which all that a layer does shows."""
    torch.manual_seed(0)
    model = naf_hub.load(name, weights=None, channels=8, **options)
    for parameter in model.parameters():
        parameter += 0.2 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_any_size_is_the_next_doubling_shrunk(name: str, inputs):
    image, features = inputs
    model = make(name)
    whole = model(image, features, (32, 40))
    for size in ((32, 40), (31, 40), (20, 33), (3, 36)):
        expected = whole if size == (32, 40) else F.interpolate(whole, size, mode="bilinear", antialias=True)
        assert apart(model(image, features, size), expected) < OUTPUT, size
        assert apart(make(name, memory="1KB")(image, features, size), expected) < OUTPUT, size
    assert torch.equal(model(image, features, (4, 5)), features)
    smaller = F.interpolate(features, (3, 5), mode="bilinear", antialias=True)
    assert apart(model(image, features, (3, 5)), smaller) < OUTPUT


@pytest.mark.parametrize("name", NAMES)
def test_a_fixed_number_of_doublings_is_resized(name: str, inputs):
    image, features = inputs
    whole = make(name)(image, features, (16, 20))
    for size in ((16, 20), (15, 19), (16, 33), (48, 50)):
        expected = F.interpolate(whole, size, mode="bilinear", antialias=True)
        assert apart(make(name, steps=2)(image, features, size), expected) < OUTPUT, size
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        make(name, steps=0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(name: str, dtype: torch.dtype, inputs):
    image, features = inputs[0].to(dtype), inputs[1].to(dtype)
    model = make(name)
    expected = model(image.float(), features.float(), (30, 40))
    mixed = model(image.float(), features, (30, 40))
    assert mixed.dtype == dtype
    assert (mixed - expected).norm() < 0.02 * expected.norm()
    assert (model.to(dtype)(image, features, (30, 40)) - expected).norm() < 0.05 * expected.norm()


def test_only_sapa_looks_at_the_image(inputs):
    image, features = inputs
    for name in NAMES:
        model = make(name)
        same = torch.equal(model(image, features), model(image.flip(-1), features))
        assert same == (name != "sapa")
        assert model.guided == (name == "sapa")


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("carafe", {"border": "replicate", "up_group": 2, "layers": 2}),
        ("sapa", {"border": "replicate", "q_mode": "gate"}),
        ("sapa", {"q_mode": "cat", "v_embed": True, "layers": 2}),
        ("dysample", {"style": "pl", "groups": 1, "dyscope": True}),
    ],
)
def test_variants_keep_their_promises(name: str, options: dict):
    checks = (
        "shapes",
        "batch_independence",
        "constant_features",
        "feature_range",
        "gradients",
        "gradient_agreement",
    )
    check_upsampler(name, channels=8, checks=checks, **options)
    assert make(name, **options).promises.constant == ("v_embed" not in options)


# --- channels ---------------------------------------------------------------------------------------------


def test_the_backbone_says_how_many_channels():
    pipeline = naf_hub.load("dysample", backbone="pico", weights=None)
    assert pipeline.upsampler.channels == naf_hub.info("pico").embed_dim
    assert pipeline(torch.rand(1, 3, 64, 64), 32).shape[1] == pipeline.upsampler.channels
    backbone = pipeline.backbone
    assert naf_hub.load("sapa", backbone=backbone, weights=None).upsampler.channels == backbone.embed_dim
    assert naf_hub.load("carafe", backbone=backbone, weights=None, channels=8).upsampler.channels == 8


def test_channels_that_are_missing_or_wrong_are_told(inputs):
    with pytest.raises(
        ValueError, match="CARAFE is made for a number of feature channels: name a backbone, or pass"
    ):
        naf_hub.load("carafe", weights=None)
    with pytest.raises(ValueError, match="SAPA is made for features of 384 channels, got 8"):
        naf_hub.load("sapa", weights=None, channels=384)(*inputs)
    with pytest.raises(naf_hub.WeightsError, match="dysample has no named weights for any backbone"):
        naf_hub.load("dysample", backbone="pico")


def test_bench_takes_the_channels_of_its_features():
    from click.testing import CliRunner

    small = ["--features", "12,4,4", "--size", "12", "--repeats", "1", "--json"]
    result = CliRunner().invoke(cli, ["bench", "dysample", "bilinear", *small])
    assert result.exit_code == 0, result.output
    assert [row["label"] for row in json.loads(result.stdout)["rows"]] == ["dysample", "bilinear"]

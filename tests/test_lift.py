"""LiFT: outputs of the authors' code, keys in the weights' order, any size, released names, training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from click.testing import CliRunner
from formula_weights import formula_state
from safetensors.torch import load_file
from torch import Tensor

import naf_hub
from naf_hub.commands.main import cli
from naf_hub.testing import check_upsampler
from naf_hub.weights.convert import convert
from naf_hub_lift.lift import LiFT

GOLDENS = Path(__file__).parent / "goldens" / "upsamplers"
OUTPUT = 1e-5


def tensors(file: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{file}.safetensors")


def formula(channels: int = 24, **options) -> LiFT:
    model = LiFT(channels, **{"kind": "token", **options}).eval().requires_grad_(False)
    model.load_state_dict(formula_state(model.state_dict()))
    return model


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize("case", ["p16", "p8", "p14_adaptive", "p14_anysize", "p16_train"])
def test_outputs(case: str):
    found = {k.removeprefix(f"{case}/"): v for k, v in tensors("lift_small").items() if k.startswith(case)}
    model, output = formula().train(case == "p16_train"), found["out"]
    assert apart(model.filter(found["in/image"], found["in/features"], output.shape[-2:]), output) < OUTPUT
    state = model.state_dict()
    for name, value in found.items():
        if name.startswith("after/"):
            assert apart(state[name.removeprefix("after/")], value) < OUTPUT, name
    if case == "p14_adaptive":
        assert apart(model.image_convs_1(found["in/image"]), found["mid/image_convs_1"]) < OUTPUT


def test_repetition_enlarges_the_image():
    found = {k.removeprefix("p16_iter/"): v for k, v in tensors("lift_small").items()}
    features, output = (
        found[k].mT.unflatten(2, s) for k, s in (("in/tokens", (4, 3)), ("out_lift_2", (16, 12)))
    )
    assert apart(formula().filter(found["in/image"], features, (16, 12)), output) < OUTPUT


def test_output_of_the_released_configuration():
    found = tensors("lift_full_c384_formula")
    output = formula(384).filter(found["full/in/image"], found["full/in/features"], (8, 6))
    assert apart(output, found["full/out"]) < OUTPUT


def test_parameters_are_the_papers():
    for channels, count in ((384, 1_187_280), (768, 4_417_296)):
        with torch.device("meta"):
            assert sum(p.numel() for p in LiFT(channels).parameters()) == count


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 40, 52, generator=generator), torch.randn(2, 24, 4, 5, generator=generator)


def test_keys_come_and_leave_heads_side_by_side(inputs):
    image, keys = inputs
    model = formula(kind="key", head_channels=8)  # three heads
    assert [want.name for want in model.wants] == ["key[-1]"]
    # To the weights channel e of head k is number 3 e + k; here it is number 8 k + e.
    order = [8 * k + e for e in range(8) for k in range(3)]
    expected = formula()(image, keys[:, order], (8, 10))
    assert apart(model(image, keys, (8, 10))[:, order], expected) < OUTPUT


def test_any_size_is_the_next_doubling_shrunk(inputs):
    image, features = inputs
    model = formula()
    whole = model(image, features, (16, 20))
    expected = F.interpolate(whole, (13, 11), mode="bilinear", antialias=True)
    assert apart(model(image, features, (13, 11)), expected) < OUTPUT
    assert torch.equal(model(image, features, (4, 5)), features)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, inputs):
    image, features = inputs[0].to(dtype), inputs[1].to(dtype)
    model = formula()
    expected = model(image.float(), features.float(), (13, 20))
    mixed = model(image.float(), features, (13, 20))
    assert mixed.dtype == dtype
    assert (mixed - expected).norm() < 0.05 * expected.norm()
    assert (model.to(dtype)(image, features, (13, 20)) - expected).norm() < 0.1 * expected.norm()


def test_a_released_file_is_converted_and_loads_by_path(tmp_path: Path, inputs):
    model, other = formula(), LiFT(24, "token").eval().requires_grad_(False)
    released = {f"module.{name}": value for name, value in model.state_dict().items()}
    other.load_weights(released)
    assert apart(other(*inputs), model(*inputs)) == 0
    torch.save(released, tmp_path / "lift.pth")
    folder = convert(tmp_path / "lift.pth", tmp_path / "lift", "lift", {"channels": 24, "kind": "token"})
    assert apart(naf_hub.load("lift", weights=folder)(*inputs), model(*inputs)) == 0


def test_a_backbone_without_keys_is_refused_before_anything_is_fetched():
    with pytest.raises(
        naf_hub.MapError, match=r"'pico' has no attention with keys.*lift needs.*capi_l14"
    ) as told:
        naf_hub.load("lift", backbone="pico")
    assert "\n" not in str(told.value)
    assert naf_hub.load("lift", backbone="pico", weights=None, kind="token").upsampler.channels == 256


def test_a_map_by_name_is_refused_or_told_what_it_lacks(inputs):
    model = naf_hub.load("lift", weights=None, channels=64)
    image, features = torch.rand(1, 3, 32, 32), torch.rand(1, 64, 2, 2)
    with pytest.raises(ValueError, match=r"features lack key\[-1\]"):
        model(image, {"token[-1]": features})
    with pytest.raises(TypeError, match=r"pass features\['key\[-1\]'\]"):
        model(image, {"key[-1]": features})


def test_a_backbone_without_weights_is_told():
    with pytest.raises(
        naf_hub.WeightsError, match="lift has no named weights for any backbone; pass weights="
    ):
        naf_hub.load("lift", backbone="dino_s16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": None}, "made for a number of feature channels: name a backbone, or pass channels="),
        ({"channels": 1}, "channels must be at least 2, got 1"),
        ({"kind": "query"}, "kind must be one of key, token; got 'query'"),
        ({"channels": 96}, "head_channels must divide channels, got head_channels=64, channels=96"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        LiFT(**{"channels": 64, **options})


def test_tokens_keep_the_promises():
    checks = ("shapes", "batch_independence", "gradient_agreement")
    check_upsampler("lift", channels=8, checks=checks, kind="token")


def test_info_says_where_the_released_weights_are():
    text = CliRunner().invoke(cli, ["info", "lift"]).stdout
    for part in (
        "drive.google.com",
        "lift_dino_vits16.pth",
        "lift_dino_vitb8.pth",
        "licence is not",
        "naf-hub convert",
    ):
        assert part in text

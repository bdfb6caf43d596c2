"""FeatSharp: outputs of the authors' code, parameters, layouts of weights, memory, errors."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from formula_weights import formula_tensor
from safetensors import safe_open
from torch import Tensor, nn

import naf_hub
from naf_hub_featsharp.featsharp import FeatSharp, prime_factors

FOLDER = Path(__file__).parent / "goldens" / "upsamplers"
OUTPUT = 1e-5
PROGRESSIVE = {"inputs": ("bilinear", "rgb", "tiles"), "progressive": True, "window": 5}
SMALL = {"channels": 8, "resolution": 8, "inputs": ("bilinear", "tiles")}


class Toy(nn.Module):
    """The encoder that the outputs were recorded with; takes images of any range."""

    def __init__(self, found: dict[str, Tensor]) -> None:
        super().__init__()
        self.found = found

    def forward(self, image: Tensor) -> Tensor:
        weight, bias = self.found["toy/conv.weight"], self.found["toy/conv.bias"]
        maps = F.conv2d(image, weight, bias, stride=weight.shape[-1]).tanh()
        return maps + 0.5 * maps.mean((-1, -2), keepdim=True)


def golden(name: str) -> tuple[dict[str, Tensor], dict]:
    with safe_open(FOLDER / f"featsharp_{name}.safetensors", "pt") as file:
        return {key: file.get_tensor(key) for key in file.keys()}, json.loads(file.metadata()["meta"])  # noqa: SIM118


def published_name(own: str) -> str:
    level, part, inner = own.partition(".jafar.")
    blocks = {"block.0": "norm1", "block.2": "conv1", "block.3": "norm2", "block.5": "conv2"}
    for here, there in blocks.items() if part else ():
        inner = inner.replace(here, there)
    return level + (".jafar.upsampler." if part else "") + inner


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


@pytest.mark.parametrize(
    ("name", "options"),
    [("jafar_tiles_1x_formula", {}), ("jafar_tiles_3x_formula", {}), ("prog_4x", PROGRESSIVE)],
)
def test_outputs(name: str, options: dict):
    found, meta = golden(name)
    config, (case,) = meta["config"], meta["cases"]
    model = FeatSharp(config["dim"], config["upsample_factor"], config["model_resolution"], **options)
    assert sum(p.numel() for p in model.parameters()) == meta["param_count"]
    state = {k.removeprefix("param/"): v for k, v in found.items() if k.startswith("param/")}
    for own, tensor in model.state_dict().items() if not state else ():
        state[published_name(own)] = formula_tensor(published_name(own), tuple(tensor.shape))
    model.load_weights(state)
    image = found[f"{case}/in/image"]
    with torch.no_grad():
        maps = model.gather(image, Toy(found))
        assert apart(maps["token[-1]"], found[f"{case}/out/lr"]) < OUTPUT
        assert apart(maps[f"tiles {model.factors[0]}"], found[f"{case}/mid/level0/tiles"]) < OUTPUT
        for memory in (None, 1):
            model.memory = memory
            assert apart(model.filter(image, maps), found[f"{case}/out/hr"]) < OUTPUT


def test_tiles_of_every_level():
    found, _ = golden("create_tiles")
    model = FeatSharp(8, 4, 8, inputs=("bilinear", "tiles"), progressive=True)
    maps = model.gather(found["in/image"], Toy(found))
    for level, tensor in enumerate(maps.values()):
        assert apart(tensor, found[f"out/level{level}"]) < OUTPUT


@pytest.mark.parametrize(
    ("channels", "factor", "count"),
    [
        (1024, 2, 45_570_096),
        (1024, 4, 45_582_384),
        (1536, 2, 111_059_840),
        (1152, 2, 69_862_144),
        (1280, 2, 82_623_968),
    ],
)
def test_parameters_are_the_authors(channels: int, factor: int, count: int):
    with torch.device("meta"):
        assert sum(p.numel() for p in FeatSharp(channels, factor).parameters()) == count


def test_checkpoints_of_the_training_load():
    torch.manual_seed(0)
    model, state = FeatSharp(**SMALL), {}
    for name, tensor in model.state_dict().items():
        blocks = {"qkv": 3, "w12": 2, "proj": 1, "w3": 1}.get(name.split(".")[-2], 0)
        if not name.endswith("weight") or not blocks:
            state[f"module.upsampler.{name}"] = tensor
            continue
        layer = f"module.upsampler.{name.removesuffix('.weight')}.parametrizations.weight"
        state[f"{layer}.original"] = 3 * tensor  # what the spectral norm divides out
        for i, block in enumerate(tensor.chunk(blocks)):
            part = f"{layer}.0.parts.{i}." if blocks > 1 else f"{layer}.0."
            u, _, v = torch.linalg.svd(block)
            norm = torch.linalg.matrix_norm(block, 2)
            state[f"{part}_u"], state[f"{part}_v"] = u[:, 0], v[0]
            state[f"{part}_sn_version"] = torch.tensor(2)
            state[f"{part}sn_scale"] = torch.expm1(norm - 0.05).log().reshape(1, 1)
    other = FeatSharp(**SMALL)
    other.load_weights(state)
    assert all(apart(tensor, other.state_dict()[name]) < 1e-5 for name, tensor in model.state_dict().items())
    with pytest.raises(naf_hub.WeightsError, match=r"normalisation of the features.*bias_buffer.buffer"):
        other.load_weights({**state, "bias_buffer.buffer": torch.ones(1, 8, 2, 2)})


def test_photos_are_squashed_and_results_resized():
    model = FeatSharp(**SMALL).requires_grad_(False)
    image = torch.rand(1, 3, 20, 32)
    backbone = Toy({"toy/conv.weight": torch.randn(8, 3, 4, 4), "toy/conv.bias": torch.zeros(8)})
    maps = model.gather(image, backbone)
    assert [tuple(m.shape[-2:]) for m in maps.values()] == [(2, 2), (4, 4)]
    small = model(image, maps, 4)
    assert apart(model(image, maps, (9, 7)), F.interpolate(small, (9, 7), mode="bilinear")) < OUTPUT
    half = {name: tensor.bfloat16() for name, tensor in maps.items()}
    assert model(image, half, 4).dtype == torch.bfloat16
    assert apart(model(image, half, 4).float(), small) < 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": None}, "name a backbone, or pass channels="),
        ({"channels": 12}, "channels must be a positive multiple of 8, got 12"),
        ({"factor": 0}, "factor must be at least 1, got 0"),
        ({"inputs": ("rgb", "tiles")}, "each once and rgb not first; got rgb, tiles"),
        ({"inputs": ("jbu",)}, "inputs must be some of jafar, tiles, bilinear, rgb"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        FeatSharp(**{**SMALL, **options})


def test_features_without_tiles_are_refused():
    with pytest.raises(ValueError, match=r"take them from gather\(image, backbone\)"):
        FeatSharp(**SMALL)(torch.rand(1, 3, 16, 16), torch.randn(1, 8, 4, 4))


def test_prime_factors():
    assert [prime_factors(n) for n in (1, 2, 8, 6, 9)] == [[1], [2], [2, 2, 2], [2, 3], [3, 3]]


def test_no_weights_are_published():
    record = naf_hub.info("featsharp")
    assert not record.weights
    with pytest.raises(naf_hub.WeightsError) as error:
        naf_hub.load("featsharp", backbone="pico")
    assert "\n" not in str(error.value)

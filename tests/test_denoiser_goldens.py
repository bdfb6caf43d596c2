"""The denoisers against the published classes: outputs, training mode, keys, shapes and sizes, on stored cases."""

from __future__ import annotations

import json
import math

import pytest
import torch
import torch.nn.functional as F
from naf_reference import GOLDENS, golden, released_state
from safetensors import safe_open
from torch import nn

import naf_hub
from naf_hub_denoisers.dncnn import DnCNN
from naf_hub_denoisers.ircnn import IRCNN
from naf_hub_denoisers.rednet import REDNet
from naf_hub_denoisers.restormer import Restormer
from naf_hub_naf.denoiser import NAFDenoiser

SMALL_RESTORMER = {"dim": 4, "num_blocks": (2, 1, 1, 1), "num_refinement_blocks": 1}
BIAS_FREE = {**SMALL_RESTORMER, "num_blocks": (1, 1, 1, 1), "heads": (1, 2, 2, 4), "expansion": 2.0}
SMALL = {
    "dncnn": lambda: DnCNN(width=8),
    "ircnn": lambda: IRCNN(width=8),
    "rednet": lambda: REDNet(width=8),
    "rednet_even": lambda: REDNet(width=8, depth=6),
    "restormer_small": lambda: Restormer(**SMALL_RESTORMER),
    "restormer_small_biasfree": lambda: Restormer(**BIAS_FREE, bias=True, norm_bias=False),
}
FULL = {"dncnn": DnCNN, "ircnn": IRCNN, "rednet": REDNet, "restormer": Restormer}
# Table 8 of the NAF paper gives them in millions.
PARAMETERS = {"dncnn": 559_363, "ircnn": 188_163, "rednet": 1_037_507, "restormer": 26_126_644}


def apart(a, b) -> float:
    return float((a - b).detach().abs().max())


def stored(name: str) -> tuple[naf_hub.Restorer, dict[str, torch.Tensor]]:
    tensors = golden(f"denoisers/{name}")
    model = SMALL[name]()
    model.load_state_dict({k.removeprefix("param."): v for k, v in tensors.items() if k.startswith("param.")})
    return model, tensors


@pytest.mark.parametrize("memory", [2**29, 1], ids=["whole", "strips"])
@pytest.mark.parametrize("name", SMALL)
def test_outputs_of_small_models(name, memory):
    model, tensors = stored(name)
    model.eval().requires_grad_(False)
    for module in model.modules():
        if hasattr(module, "memory"):
            module.memory = memory
    assert apart(model(tensors["input"]), tensors["output"]) < 1e-4
    # The published classes resize the noisy image themselves.
    larger = F.interpolate(tensors["input"], (24, 32), mode="bilinear")
    assert apart(model(larger), tensors["output_24x32"]) < 1e-4


@pytest.mark.parametrize("name", SMALL)
def test_outputs_with_gradients(name):
    model, tensors = stored(name)
    assert apart(model.eval()(tensors["input"]), tensors["output"]) < 1e-4


def test_dncnn_in_training():
    model, tensors = stored("dncnn")
    assert apart(model.train()(tensors["input"]), tensors["output_train_mode"]) < 5e-4
    state = model.state_dict()
    for key in ("model.3.running_mean", "model.3.running_var"):
        assert apart(state[key], tensors[f"after_train.{key}"]) < 5e-4


def fill(model: nn.Module, gain: float) -> None:
    """Weights by the recipe of the golden: sines of position and key, scaled by fan-in."""
    state = model.state_dict()
    for j, key in enumerate(sorted(state)):
        tensor = state[key]
        if not tensor.is_floating_point():
            tensor.zero_()
            continue
        i = torch.arange(tensor.numel(), dtype=torch.float64)
        s = torch.sin(0.7 * i + 1.3 * j) * torch.cos(0.011 * i)
        if tensor.ndim >= 2:
            s = gain * s / math.sqrt(math.prod(tensor.shape[1:]))
        elif key.endswith("running_var"):
            s = 1 + 0.25 * s
        elif key.endswith("weight"):
            s = 1 + 0.1 * s
        else:
            s = 0.05 * s
        tensor.copy_(s.view(tensor.shape))


def empty(name: str) -> nn.Module:
    """The full model without the seconds that random weights take."""
    with torch.device("meta"):
        return FULL[name]()


@pytest.mark.parametrize("name", FULL)
def test_full_models(name):
    model = empty(name).to_empty(device="cpu").eval().requires_grad_(False)
    with safe_open(GOLDENS / "denoisers/full_config_recipe.safetensors", "pt") as file:
        gains = json.loads(file.metadata()["gain"])
        image, expected = file.get_tensor("input"), file.get_tensor(f"output_{name}")
    fill(model, gains[name])
    assert apart(model(image), expected) < 2e-4


@pytest.mark.parametrize("name", FULL)
def test_keys_shapes_and_parameters(name):
    model = empty(name)
    stored = json.loads((GOLDENS / "denoisers/state_dict_shapes.json").read_text())["state_dict"][name]
    found = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    assert list(found.items()) == list(stored.items())  # in the order of registration, too
    assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("gradients", [False, True], ids=["streamed", "plain"])
def test_small_naf(gradients):
    tensors = golden("denoisers/naf")
    model = NAFDenoiser(dim=16, kernel_size=5).eval().requires_grad_(gradients)
    model.load_state_dict({k.removeprefix("param."): v for k, v in tensors.items() if k.startswith("param.")})
    assert apart(model(tensors["noisy"]), tensors["output"]) < 1e-4


@pytest.mark.parametrize("rope_heads", [1, 4])
def test_released_naf_as_denoiser(rope_heads):
    tensors = golden("naf_denoise")
    case = f"f_rope{rope_heads}"
    model = NAFDenoiser(rope_heads=rope_heads).eval().requires_grad_(False)
    model.load_state_dict(released_state() | {"image_encoder.rope.periods": tensors[f"{case}.periods"]})
    assert sum(p.numel() for p in model.parameters()) == 662_528
    assert apart(model(tensors[f"{case}.features"]), tensors[f"{case}.output"]) < 5e-5

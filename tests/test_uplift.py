"""UPLiFT: outputs of the authors' code, exact savings, any size, weights per backbone, memory, training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from formula_weights import formula_state
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import naf_hub
from naf_hub_uplift.local_attender import LocalAttender
from naf_hub_uplift.uplift import UPLiFT

GOLDENS = Path(__file__).parent / "goldens" / "upsamplers"
OUTPUT = 1e-5
SMALL = {"channels": 24, "encoder_dims": (4, 6, 8, 10, 10), "dim": 20}


def meta(file: str) -> dict:
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as opened:
        return json.loads(opened.metadata()["meta"])


def tensors(file: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{file}.safetensors")


def formula(**options) -> UPLiFT:
    model = UPLiFT(**options).eval().requires_grad_(False)
    model.load_state_dict(formula_state(model.state_dict()))
    return model


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def test_outputs():
    found = tensors("uplift_small")
    for case, options in meta("uplift_small")["cases"].items():
        image, features = found[f"{case}/in/image"], found[f"{case}/in/features"]
        names = [name for name in found if name.startswith(f"{case}/out")]
        for name in names:
            steps = int(name[-1]) if options["return_steps"] else options["iters"]
            model = formula(**SMALL, patch_size=options["patch_size"], steps=steps)
            model.train(case == "train_2")
            output = model.filter(image, features, tuple(found[name].shape[-2:]))
            assert apart(output, found[name]) < OUTPUT, name
    after = {k.removeprefix("train_2/after/"): v for k, v in found.items() if k.startswith("train_2/after/")}
    state = model.state_dict()
    assert case == "train_2"
    assert max(apart(state[name], value) for name, value in after.items()) < OUTPUT


def test_intermediate_maps():
    found = {k.removeprefix("square_1/"): v for k, v in tensors("uplift_small").items()}
    model, features = formula(**SMALL), found["in/features"]
    fine, coarse = model.encode(found["in/image"], (3, 3))
    assert apart(fine, found["mid/encoder.block_3"]) < OUTPUT
    assert apart(coarse, found["mid/encoder.block_4"][:, :, ::16, ::16]) < OUTPUT
    guide = model.decoder(features, fine, coarse)
    assert apart(guide, found["mid/decoder.block_1"]) < OUTPUT


@pytest.mark.parametrize(("file", "size"), [("dinov2-s14", 14), ("dinov3-splus16", 16)])
def test_outputs_of_the_released_configurations(file: str, size: int):
    found = tensors(f"uplift_full_{file}_formula")
    model = formula(channels=384, patch_size=size)
    image, features = found["in/image"], found["in/features"]
    once, whole = found["iters1/out"], found["iters4_outsize/out_every8"]
    assert apart(model.filter(image, features, tuple(once.shape[-2:])), once) < OUTPUT
    assert apart(model.filter(image, features, tuple(whole.shape[-2:]))[:, ::8], whole) < OUTPUT


def test_local_attender():
    found = tensors("uplift_attender")
    for case, options in meta("uplift_attender")["cases"].items():
        guide, value, output = (found[f"{case}/{part}"] for part in ("in/guide", "in/value", "out"))
        layer = LocalAttender(
            options["in_channels"], 5, options["num_connected"], options["scale"], options["conv_res"]
        )
        layer.load_state_dict({f"conv1.{k}": found[f"{case}/param/conv1.{k}"] for k in ("weight", "bias")})
        assert apart(layer(value, guide), output) < OUTPUT, case

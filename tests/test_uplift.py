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
from naf_hub.testing import check_upsampler
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


def test_only_the_pixels_that_are_read_are_encoded():
    image = tensors("uplift_small")["odd_image_2/in/image"]
    model = formula(**SMALL)
    for grid in ((4, 6), (16, 24), (37, 50), (40, 60)):
        fine, coarse = model.encode(image, grid)
        assert apart(coarse, F.interpolate(model.encoder[-1](fine), grid)) < OUTPUT, grid
    guide = tensors("uplift_small")["square_1/mid/decoder.block_1"]
    image, features = (tensors("uplift_small")[f"square_1/in/{part}"] for part in ("image", "features"))
    assert apart(model.decoder(features, *model.encode(image, (3, 3))), guide) < OUTPUT


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


def test_parameters_are_the_papers():
    for channels, count in ((384, 789_521), (768, 1_010_705)):
        with torch.device("meta"):
            model = UPLiFT(channels)
        assert sum(p.numel() for p in model.parameters()) == count
    assert len(model.state_dict()) == 72


def test_weights_of_each_backbone():
    record = naf_hub.info("uplift")
    assert isinstance(record, naf_hub.UpsamplerRecord)
    for name, weights in record.weights.items():
        backbone = naf_hub.info(name)
        assert isinstance(backbone, naf_hub.BackboneRecord)
        assert weights.options == {"channels": backbone.embed_dim, "patch_size": backbone.patch_size}
    with pytest.raises(naf_hub.WeightsError, match="'pico'; it has them for: dinov2_s, dinov3_splus;"):
        naf_hub.load("uplift", backbone="pico")


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 40, 52, generator=generator), torch.randn(2, 24, 4, 5, generator=generator)


def test_any_size_is_the_next_doubling_shrunk_within_any_memory(inputs):
    image, features = inputs
    model, sparing = formula(**SMALL), formula(**SMALL, memory="1KB")
    whole = model(image, features, (16, 20))
    for size in ((16, 20), (13, 20), (9, 3)):
        expected = F.interpolate(whole, size, mode="bilinear", antialias=True)
        assert apart(model(image, features, size), expected) < OUTPUT, size
        assert apart(sparing(image, features, size), expected) < OUTPUT, size
    assert torch.equal(model(image, features, (4, 5)), features)
    once = formula(**SMALL, steps=1)
    expected = F.interpolate(once(image, features, (8, 10)), (16, 7), mode="bilinear", antialias=True)
    assert apart(once(image, features, (16, 7)), expected) < OUTPUT


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype: torch.dtype, inputs):
    image, features = inputs[0].to(dtype), inputs[1].to(dtype)
    model = formula(**SMALL)
    expected = model(image.float(), features.float(), (15, 20))
    mixed = model(image.float(), features, (15, 20))
    assert mixed.dtype == dtype
    assert (mixed - expected).norm() < 0.05 * expected.norm()
    assert (model.to(dtype)(image, features, (15, 20)) - expected).norm() < 0.1 * expected.norm()


def test_images_of_fourteen_keep_the_promises():
    checks = ("shapes", "batch_independence", "constant_features", "feature_range", "gradient_agreement")
    check_upsampler("uplift", channels=8, checks=checks, patch_size=14, dim=8, neighbors=13)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": None}, "made for a number of feature channels: name a backbone, or pass channels="),
        ({"neighbors": 7}, "neighbors must be one of 5, 9, 13, 17, 25; got 7"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"encoder_dims": (4,)}, "encoder_dims must be two numbers at least"),
        ({"memory": "much"}, "memory must be"),
    ],
)
def test_options_that_make_no_sense_are_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        UPLiFT(**{"channels": 8, **options})

"""LoftUp: outputs of the authors' code, batches, memory, weights of every layout, space, precision, errors."""

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
from naf_hub_loftup import register_upsamplers
from naf_hub_loftup.fourier_features import stretch_colours
from naf_hub_loftup.loftup import LoftUp

GOLDENS = Path(__file__).parent / "goldens" / "upsamplers"
# The highest frequency amplifies rounding ten thousandfold; the same operations in the same order agree to 3e-5.
OUTPUT, ROUNDED = 1e-5, 2e-2
FILES = (
    "loftup_small_sine_formula",
    "loftup_small_learnable",
    "loftup_small_nocolor",
    "loftup_full_d384_formula",
)


def meta(file: str) -> dict:
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as opened:
        return json.loads(opened.metadata()["meta"])


def tensors(file: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{file}.safetensors")


def published(model: LoftUp) -> dict[str, Tensor]:
    """The model's state under the names of the authors' files."""
    state = {}
    for name, tensor in model.state_dict().items():
        name = name.replace("fourier_feat.", "fourier_feat.1.").replace("first_conv.0.", "first_conv.0.norm.")
        inner = name.replace("channelnorm.", "channelnorm.norm.")
        state[inner if inner.startswith("channelnorm.") else f"upsampler.{inner}"] = tensor
    return state


def recorded(file: str, **options) -> LoftUp:
    config = dict(meta(file)["config"])
    torch.manual_seed(0)
    model = LoftUp(config.pop("dim"), **config, **options)
    state = {k.removeprefix("param/"): v for k, v in tensors(file).items() if k.startswith("param/")}
    model.load_weights(state or formula_state(published(model)))
    return model.eval().requires_grad_(False)


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def record() -> naf_hub.UpsamplerRecord:
    found: list[naf_hub.UpsamplerRecord] = []
    register_upsamplers(found.append)
    return found[0]


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("memory", [None, "1KB"])
def test_outputs(file: str, memory: str | None):
    found, model = tensors(file), recorded(file, memory=memory)
    for case in meta(file)["cases"]:
        if case == "square_train":
            continue
        output = model.filter(found[f"{case}/in/image"], found[f"{case}/in/features"])
        assert apart(output, found[f"{case}/out"]) < ROUNDED, case


@pytest.mark.parametrize(
    ("file", "case"),
    [(FILES[0], "square"), (FILES[1], "pe_match"), (FILES[2], "nocolor")],
)
def test_intermediate_maps(file: str, case: str, monkeypatch):
    found, model = tensors(file), recorded(file)
    image, features = found[f"{case}/in/image"], found[f"{case}/in/features"]
    mid = {k.rpartition("/")[2]: v for k, v in found.items() if k.startswith(f"{case}/mid/")}
    colours = stretch_colours(image, per_image=False)
    assert apart(colours, mid["minmax"]) < OUTPUT
    assert apart(model.reference(features), mid["channelnorm"]) < OUTPUT
    assert apart(model.tokens(features), mid["kv"]) < OUTPUT
    fourier = mid["fourier"].permute(0, 2, 3, 1)
    assert apart(model.fourier_feat(colours, (0, image.shape[-2])), fourier) < 5e-3
    # From the authors' features on, rounding is not amplified.
    monkeypatch.setattr(model.fourier_feat, "forward", lambda _, rows: fourier[:, slice(*rows)])
    for memory in (None, 1):
        model.memory = memory
        assert apart(model.filter(image, features), found[f"{case}/out"]) < 1e-4


def test_statistics_of_batches_in_training():
    """What the authors' example computes, since it leaves the model in training mode."""
    file = FILES[0]
    found, model = tensors(file), recorded(file).train()
    output = model.filter(found["square/in/image"], found["square/in/features"])
    assert apart(output, found["square_train/out"]) < ROUNDED
    assert apart(output, found["square/out"]) > 1
    assert int(model.state_dict()["first_conv.2.num_batches_tracked"]) == 2


def test_images_share_their_range_unless_asked():
    file = FILES[0]
    found = tensors(file)
    image, features = found["nonsquare_batch2/in/image"], found["nonsquare_batch2/in/features"]
    assert apart(found["nonsquare_batch2/out"][:1], found["single_of_batch/out"]) > 0.1
    model = recorded(file, per_image=True)
    assert model.promises.batch_independent
    assert apart(model.filter(image, features)[:1], found["single_of_batch/out"]) < ROUNDED


@pytest.mark.parametrize(
    ("channels", "norm", "count"),
    [(384, False, 4_303_126), (384, True, 4_303_894), (512, True, 7_165_462), (768, True, 15_051_286)],
)
def test_parameters_are_the_papers(channels: int, norm: bool, count: int):
    with torch.device("meta"):
        assert sum(p.numel() for p in LoftUp(channels, norm=norm).parameters()) == count


def small(**options) -> LoftUp:
    torch.manual_seed(0)
    return LoftUp(**{"channels": 8, "n_freqs": 4, **options}).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(2, 3, 17, 23, generator=generator), torch.randn(2, 8, 3, 4, generator=generator)


def test_every_layout_of_weights_loads(inputs):
    model = small()
    released = published(model)
    snapshot = {k.replace("channelnorm.norm.", "model.1.norm."): v for k, v in released.items()}
    snapshot["model.0.blocks.weight"] = torch.ones(3)
    for state in (released, snapshot, model.state_dict()):
        other = small(n_freqs=4)
        torch.nn.init.zeros_(other.first_conv[1].weight)
        other.load_weights(state)
        assert apart(other(*inputs), model(*inputs)) == 0
    # What was pushed to the Hub as model.safetensors lacks the norm that its weights were trained behind.
    inner = {k.removeprefix("upsampler."): v for k, v in released.items() if k.startswith("upsampler.")}
    with pytest.raises(naf_hub.WeightsError, match=r"channelnorm\.weight"):
        small().load_weights(inner)
    bare = small(norm=False)
    bare.load_weights(inner)
    assert apart(bare(inputs[0], model.reference(inputs[1])), model(*inputs)) < OUTPUT
    with pytest.raises(naf_hub.WeightsError, match=r"channelnorm\.weight"):
        bare.load_weights(released)


def test_another_size_is_another_size_of_the_image(inputs):
    image, features = inputs
    model = small()
    resized = F.interpolate(model.normalize(image), (11, 30), mode="bilinear")
    assert apart(model(image, features, (11, 30)), model.filter(resized, features)) == 0


def test_half_precision_of_features_and_weights(inputs):
    image, features = inputs
    expected = small()
    for dtype in (torch.bfloat16, torch.float16):
        mixed = expected(image, features.to(dtype))
        assert mixed.dtype == dtype
        assert apart(mixed.float(), expected(image, features.to(dtype).float())) < 0.03
        narrow = small().to(dtype)(image, features.to(dtype))
        assert narrow.dtype == dtype
        assert (narrow - expected(image, features)).norm() < 0.1 * narrow.norm()


def test_record_names_the_releases():
    weights = record().weights
    assert len({w.repository for w in weights.values()}) == len(weights) == 7
    assert weights["dinov2_reg_s"].source == "hf://haiwen/loftup-dinov2s_reg/pytorch_model.bin"
    for name in ("dinov2_s", "dinov2_reg_s", "dinov2_b", "dinov2_reg_b", "siglip2_b16_224"):
        backbone = naf_hub.info(name)
        assert isinstance(backbone, naf_hub.BackboneRecord)
        assert weights[name].options == {"channels": backbone.embed_dim}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": None}, "LoftUp is made for a number of feature channels: name a backbone, or pass"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"channels": 9}, "num_heads must divide the width, got num_heads=4, width=29"),
        ({"lr_pe_type": "none"}, "lr_pe_type must be one of sine, learnable; got 'none'"),
        ({"n_freqs": 1}, "n_freqs must be at least 2, got 1"),
        ({"memory": "much"}, "memory must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        small(**options)

"""JAFAR: outputs of the authors' code, weights of every layout, memory, precision, errors."""

from __future__ import annotations

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from formula_weights import formula_state
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import naf_hub
from naf_hub.loading import load_upsampler
from naf_hub.weights.web import web_file
from naf_hub_jafar import register_upsamplers
from naf_hub_jafar.jafar import BLOCK, JAFAR

GOLDENS = Path(__file__).parent / "goldens" / "upsamplers"
OUTPUT = 1e-5


def meta(file: str) -> dict:
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as opened:
        return json.loads(opened.metadata()["meta"])


def tensors(file: str) -> dict[str, Tensor]:
    return load_file(GOLDENS / f"{file}.safetensors")


def published(model: JAFAR) -> dict[str, Tensor]:
    """The model's state under the names of the authors' files."""
    names = {own: theirs for theirs, own in BLOCK.items()}
    state = {}
    for name, tensor in model.state_dict().items():
        for own, theirs in names.items():
            name = name.replace(own, theirs)
        state[name] = tensor
    return state


def recorded(file: str, **options) -> JAFAR:
    config = meta(file)["config"]
    model = JAFAR(config["v_dim"], config["qk_dim"], config["kernel_size"], config["num_heads"], **options)
    state = {k.removeprefix("param/"): v for k, v in tensors(file).items() if k.startswith("param/")}
    model.load_weights(state or formula_state(published(model)))
    return model.eval().requires_grad_(False)


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape
    return float((a - b).detach().abs().max())


def record() -> naf_hub.UpsamplerRecord:
    found: list[naf_hub.UpsamplerRecord] = []
    register_upsamplers(found.append)
    return {record.name: record for record in found}["jafar"]


@pytest.mark.parametrize("file", ["jafar_small", "jafar_small_k3_vdim_eq_qkdim", "jafar_full_v384_formula"])
@pytest.mark.parametrize("memory", [None, "16KiB"])
def test_outputs(file: str, memory: str | None):
    found, model = tensors(file), recorded(file, memory=memory)
    for case in meta(file)["cases"]:
        image, features, output = (found[f"{case}/{part}"] for part in ("in/image", "in/features", "out"))
        assert apart(model.filter(image, features, output.shape[-2:]), output) < OUTPUT, case


@pytest.mark.parametrize(
    ("file", "case"), [("jafar_small", "square"), ("jafar_small_k3_vdim_eq_qkdim", "k3_vdim_eq_qkdim")]
)
def test_intermediate_maps(file: str, case: str):
    found, model = tensors(file), recorded(file)
    image, features, output = (found[f"{case}/{part}"] for part in ("in/image", "in/features", "out"))
    mid = {k.rpartition("/")[2]: v for k, v in found.items() if k.startswith(f"{case}/mid/")}
    encoded = model.image_encoder(image)
    assert apart(encoded, mid["image_encoder"]) < OUTPUT
    assert apart(model.rope(encoded).flatten(2).mT, mid["rope"]) < OUTPUT
    queries, keys = model.guidance(image, output.shape[-2:], features.shape[-2:])
    assert apart(queries, mid["query_normed"]) < OUTPUT
    assert apart(keys, mid["key_pooled"]) < OUTPUT
    assert apart(model.cross_decode.conv2d(queries), mid["query_conv"]) < OUTPUT
    unit = torch.nn.functional.normalize(features, dim=1)
    assert apart(model.key_features_encoder(unit), mid["key_features"]) < OUTPUT
    assert apart(model.keys(keys, features), mid["key_sft"]) < OUTPUT


@pytest.mark.parametrize(
    ("channels", "count"), [(320, 612_032), (384, 628_480), (768, 727_168), (1280, 858_752)]
)
def test_parameters_are_the_papers(channels: int, count: int):
    with torch.device("meta"):
        model = JAFAR(channels)
    assert sum(p.numel() for p in model.parameters()) == count
    names = published(model)
    assert names["cross_decode.cross_attn.attention.v_proj_weight"].shape == (128, channels)
    assert len(names) == 65


def test_record_names_the_releases():
    weights = record().weights
    assert len(weights) == len({w.source for w in weights.values()}) == 14
    assert Path(weights["dinov2_reg_s"].source).name == "vit_small_patch14_reg4_dinov2.pth"
    for name, made in weights.items():
        if name.startswith("timm:"):
            continue
        backbone = naf_hub.info(name)
        assert isinstance(backbone, naf_hub.BackboneRecord)
        assert made.options["channels"] == backbone.embed_dim
        # RADIO's own normalisation is part of its model there, so that JAFAR saw plain images.
        mean = (0.0, 0.0, 0.0) if name.startswith("radio") else backbone.mean
        assert made.options.get("mean", naf_hub.records.IMAGENET_MEAN) == mean


def settings() -> type:
    """The class that settings in the authors' files are of, whose library is not needed to read them."""
    return type("DictConfig", (), {"__module__": "omegaconf.dictconfig"})


def test_the_backbone_picks_its_weights(monkeypatch, caplog):
    """From a file like the authors': the state beside an optimizer's and settings."""
    module = types.ModuleType("omegaconf.dictconfig")
    module.DictConfig = settings()
    monkeypatch.setitem(sys.modules, "omegaconf", types.ModuleType("omegaconf"))
    monkeypatch.setitem(sys.modules, "omegaconf.dictconfig", module)
    model, config = JAFAR(384), module.DictConfig()
    config.learning_rate = 2e-4
    state = formula_state(published(model))
    # Where the first use leaves it.
    file = web_file(record().weights["dinov2_reg_s"])
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"jafar": state, "optimizer_jafar": {"state": {0: state}}, "epoch": 1, "cfg": config}, file)
    monkeypatch.delitem(sys.modules, "omegaconf.dictconfig")
    monkeypatch.delitem(sys.modules, "omegaconf")
    loaded = load_upsampler("jafar", made_for="dinov2_reg_s")
    model.load_weights(state)
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert "no checksum is published" in caplog.text


def test_a_backbone_without_weights_is_told_which_have_them():
    with pytest.raises(
        naf_hub.WeightsError, match="jafar has no weights for backbone 'pico'; it has them for: dino_b16,"
    ):
        naf_hub.load("jafar", backbone="pico")


def test_the_image_is_normalised_as_the_backbones():
    torch.manual_seed(0)
    options = record().weights["siglip2_b16_512"].options
    model = JAFAR(5, 16, mean=options["mean"], std=options["std"]).eval().requires_grad_(False)
    image, features = torch.rand(1, 3, 12, 12), torch.randn(1, 5, 3, 3)
    assert apart(model(image, features), model.filter(2 * image - 1, features, (12, 12))) < 1e-6


def test_half_precision_of_features_and_weights():
    torch.manual_seed(0)
    image, features = torch.rand(2, 3, 33, 47), torch.randn(2, 7, 5, 6)
    expected = JAFAR(7, 32).eval().requires_grad_(False)
    for dtype in (torch.bfloat16, torch.float16):
        model = JAFAR(7, 32).eval().requires_grad_(False)
        model.load_state_dict(expected.state_dict())
        mixed = model(image, features.to(dtype))
        assert mixed.dtype == dtype
        assert apart(mixed.float(), expected(image, features.to(dtype).float())) < 0.03
        narrow = model.to(dtype)(image.to(dtype), features.to(dtype))
        assert narrow.dtype == dtype
        assert apart(narrow.float(), expected(image, features)) < 0.5


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "JAFAR is made for a number of feature channels: name a backbone, or pass channels="),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"channels": 8, "qk_dim": 20}, "qk_dim must be a positive multiple of 8, got 20"),
        ({"channels": 8, "num_heads": 5}, "num_heads must divide qk_dim"),
        ({"channels": 8, "kernel_size": 2}, "kernel_size must be odd"),
        ({"channels": 8, "memory": "much"}, "memory must be"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message: str):
    with pytest.raises(ValueError, match=message):
        JAFAR(**options)

"""The registered RADIO models: records, shapes at their real size, conformance of a small one."""

from __future__ import annotations

import functools
import subprocess
import sys

import pytest
import torch
from test_radio_goldens import OPTIONS

from naf_hub import BackboneRecord
from naf_hub.interfaces import Backbone
from naf_hub.testing import BACKBONE_CHECKS
from naf_hub.testing.subject import Subject
from naf_hub_radio import register_backbones
from naf_hub_radio.backbone import Radio
from naf_hub_radio.records import records

RECORDS = {record.name: record for record in records()}
# Values in the published float32 files, less the three indices of summary tokens.
PUBLISHED = {"radio_v2_5_b": 98_233_353, "radio_v2_5_l": 319_881_225, "radio_v2_5_h": 651_642_889}


@functools.cache
def build_once(options: tuple[tuple[str, int], ...]) -> Radio:
    with torch.device("meta"):
        return Radio(**dict(options)).eval()


def build(name: str) -> Radio:
    """The real size without storage; models of one architecture are built once."""
    record = RECORDS[name]
    assert record.resolve() is Radio
    return build_once(tuple(record.options.items()))


def test_names_and_sources():
    seen: list[BackboneRecord] = []
    register_backbones(seen.append)
    assert seen == list(RECORDS.values())
    assert {name: record.weights["default"].source for name, record in RECORDS.items()} == {
        "radio_v2_5_b": "hf://nvidia/RADIO-B/model.safetensors",
        "radio_v2_5_l": "hf://nvidia/RADIO-L/model.safetensors",
        "radio_v2_5_h": "hf://nvidia/RADIO-H/model.safetensors",
        "radio_v2_5_g": "hf://nvidia/RADIO-g/model.safetensors",
        "cradio_v2_b": "hf://nvidia/C-RADIOv2-B/model.safetensors",
        "cradio_v2_l": "hf://nvidia/C-RADIOv2-L/model.safetensors",
        "cradio_v2_h": "hf://nvidia/C-RADIOv2-H/model.safetensors",
        "cradio_v2_g": "hf://nvidia/C-RADIOv2-g/model.safetensors",
        "cradio_v2_vlm_h": "hf://nvidia/C-RADIOv2-VLM-H/model.safetensors",
    }


@pytest.mark.parametrize("name", RECORDS)
def test_records_say_what_matters(name: str):
    record = RECORDS[name]
    assert record.non_commercial == name.startswith("radio_")
    assert ("non-commercial" in (record.weights["default"].license or "")) == record.non_commercial
    assert not record.gated
    assert record.native_size == (896 if name == "radio_v2_5_g" else 768)
    assert record.paper == "https://arxiv.org/abs/2412.07679"


@pytest.mark.parametrize("name", RECORDS)
def test_real_shapes(name: str):
    model, record = build(name), RECORDS[name]
    patch = 14 if name == "radio_v2_5_g" else 16
    assert (model.embed_dim, model.patch_size) == (record.embed_dim, record.patch_size)
    assert record.patch_size == patch
    assert record.native_size is not None
    assert record.native_size % patch == 0
    for height, width in ((448, 448), (336, 448)):
        features = model(torch.empty(1, 3, height, width, device="meta"))
        assert features.shape == (1, record.embed_dim, height // patch, width // patch)


@pytest.mark.parametrize("name", PUBLISHED)
def test_as_many_values_as_published(name: str):
    assert sum(value.numel() for value in build(name).state_dict().values()) + 3 == PUBLISHED[name]


def test_the_giant_has_gated_mlps_of_4096_channels():
    shapes = {key: tuple(value.shape) for key, value in build("radio_v2_5_g").state_dict().items()}
    assert shapes["network.blocks.39.mlp.fc1.weight"] == (8192, 1536)
    assert shapes["network.blocks.39.mlp.fc2.weight"] == (1536, 4096)
    assert shapes["network.embeds.pos_embed"] == (1, 128, 128, 1536)


def test_registering_imports_neither_torch_nor_timm():
    code = (
        "import sys, naf_hub_radio; naf_hub_radio.register_backbones(lambda record: None);"
        "print([m for m in ('torch', 'timm', 'safetensors') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    assert done.stdout.strip() == "[]"


SMALL = {
    "plain": OPTIONS["radio_v25_tiny"] | {"depth": 2},
    "giant": OPTIONS["radio_v25_g_tiny"] | {"depth": 2},
}


def subject(kind: str) -> Subject:
    options = SMALL[kind]
    record = BackboneRecord(
        name="radio_tiny",
        summary="A small RADIO.",
        target="naf_hub_radio.backbone:Radio",
        options=options,
        embed_dim=48,
        patch_size=options.get("patch_size", 16),
    )

    def make() -> Backbone:
        torch.manual_seed(0)
        return record.resolve()(**record.options).eval().requires_grad_(False)

    return Subject(make, record)


@pytest.mark.parametrize("check", BACKBONE_CHECKS)
@pytest.mark.parametrize("kind", SMALL)
def test_conformance(kind: str, check: str):
    BACKBONE_CHECKS[check](subject(kind))


@pytest.mark.parametrize("kind", SMALL)
@torch.no_grad()
def test_precisions(kind: str):
    """The image's dtype comes back, whatever the weights', and half precision stays near."""
    model = subject(kind).make()
    image = torch.rand(1, 3, 6 * model.patch_size, 4 * model.patch_size)
    expected = model(image)
    double = model.double()(image.double())
    assert double.dtype == torch.float64
    torch.testing.assert_close(double.float(), expected, atol=1e-4, rtol=1e-4)
    half = model.bfloat16()(image)
    assert half.dtype == torch.float32
    assert ((half - expected).norm() / expected.norm()).item() < 0.05


@torch.no_grad()
def test_autocast():
    model = subject("plain").make()
    image = torch.rand(1, 3, 96, 64)
    with torch.autocast("cpu", torch.bfloat16):
        found = model(image)
    expected = model(image)
    assert ((found.float() - expected).norm() / expected.norm()).item() < 0.05


@torch.no_grad()
def test_a_single_patch_and_more_patches_than_positions():
    model = Radio(**SMALL["plain"]).eval()
    assert model(torch.rand(1, 3, 16, 16)).shape == (1, 48, 1, 1)
    assert torch.isfinite(model(torch.rand(1, 3, 16 * 18, 16))).all()


def test_options_that_cannot_be():
    with pytest.raises(ValueError, match="multiple of num_heads"):
        Radio(embed_dim=50, depth=1, num_heads=4)
    with pytest.raises(ValueError, match="prefix_tokens"):
        Radio(embed_dim=48, depth=1, num_heads=4, prefix_tokens=0)

"""Every named timm backbone: what its record says is what timm builds, and nothing heavy registers it."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from timm.models import get_pretrained_cfg

import naf_hub
from naf_hub.weights.fill import fill_buffers
from naf_hub_timm.backbone import TimmBackbone, network_of
from naf_hub_timm.table import FAMILIES, alias_records

RECORDS = {record.name: record for record in alias_records()}
SMALLEST = {
    "dino_s16": 1, "dinov2_s": 1, "dinov2_reg_s": 5, "dinov3_s": 5, "dinov3_cnx_t": 0, "siglip2_b16_256": 0,
    "pe_core_t": 1, "pe_spatial_t": 1, "mae_b": 1, "clip_b32": 1, "sam_b": 0, "cradio_v3_b": 8,
}  # fmt: skip


def test_there_are_sixty_five() -> None:
    assert len(RECORDS) == sum(len(family.models) for family in FAMILIES) == 65
    assert RECORDS.keys() <= set(naf_hub.list_backbones())


@pytest.mark.parametrize("name", RECORDS)
def test_shape_at_448(name: str) -> None:
    record = RECORDS[name]
    with torch.device("meta"):
        model = TimmBackbone(**record.options).eval()
    assert (model.embed_dim, model.patch_size) == (record.embed_dim, record.patch_size)
    assert sum(p.numel() for p in model.parameters()) == record.parameters
    assert model.fixed_size is None
    assert record.network == network_of(model.model)
    assert record.depth == (len(model.model.blocks) if record.network == "timm" else 0)
    with torch.no_grad(), torch.device("meta"):
        features = model(torch.empty(1, 3, 448, 448))
    side = 448 // record.patch_size
    assert features.shape == (1, record.embed_dim, side, side)


@pytest.mark.parametrize("name", RECORDS)
def test_record_is_timms_configuration(name: str) -> None:
    record = RECORDS[name]
    config = get_pretrained_cfg(record.options["model"])
    assert config is not None
    assert (record.mean, record.std) == (tuple(config.mean), tuple(config.std))
    assert record.native_size == config.input_size[1]
    weights = record.weights["default"]
    assert weights.source == f"hf://{config.hf_hub_id}/model.safetensors"
    if name.startswith("clip_"):
        assert weights.license == "MIT"  # timm's configuration says otherwise; OpenAI's repository decides
    else:
        assert weights.license is not None
        assert weights.license.lower().replace(" ", "-") == config.license
    assert record.non_commercial == (config.license == "cc-by-nc-4.0")
    assert record.paper is not None


def test_seven_billion_parameters_load_in_bfloat16() -> None:
    assert {name for name, record in RECORDS.items() if record.dtype} == {"dinov3_7b", "dinov3_7b_sat"}


@pytest.mark.parametrize("name", SMALLEST)
def test_full_depth_and_prefix_tokens(name: str) -> None:
    """One of each family in full: the grid is not native and not square, prefix tokens are gone."""
    record = RECORDS[name]
    with torch.device("meta"), torch.no_grad():
        model = TimmBackbone(**record.options).eval()
        image = torch.empty(2, 3, 3 * record.patch_size, 5 * record.patch_size)
        assert model(image).shape == (2, record.embed_dim, 3, 5)
    assert getattr(model.model, "num_prefix_tokens", 0) == SMALLEST[name]


def with_random_weights(record: naf_hub.BackboneRecord) -> TimmBackbone:
    """The full model on the CPU, without the seconds that timm's truncated normals take."""
    with torch.device("meta"):
        model = TimmBackbone(**record.options).eval()
    generator = torch.Generator().manual_seed(0)
    state = {}
    for key, value in model.state_dict().items():
        drawn = torch.randn(value.shape, generator=generator)
        state[key] = 1 + 0.02 * drawn if value.ndim == 1 and key.endswith("weight") else 0.02 * drawn
    model.load_state_dict(state, assign=True)
    fill_buffers(model, "cpu")
    return model


@pytest.mark.parametrize("name", SMALLEST)
def test_for_real(name: str) -> None:
    """Random weights on the CPU: finite, different where the image differs, resized images say so."""
    model = with_random_weights(RECORDS[name])
    patch = model.patch_size
    torch.manual_seed(0)
    image = torch.rand(1, 3, 3 * patch, 4 * patch)
    with torch.no_grad():
        features = model(image)
        assert features.shape == (1, model.embed_dim, 3, 4)
        assert torch.isfinite(features).all()
        assert (features - model(image.flip(-1))).abs().max() > 1e-3
        with pytest.warns(UserWarning, match=f"multiples of {patch} pixels"):
            assert model(image[..., 1:, 2:]).shape == features.shape


def test_dinov3_convnext_map_is_normalised() -> None:
    torch.manual_seed(0)
    model = naf_hub.load_backbone("dinov3_cnx_t", weights=None, depths=(1, 1, 1, 1))
    with torch.no_grad():
        features = model(torch.rand(1, 3, 64, 96))
    # LayerNorm with its initial scale and shift: every cell has mean 0 and variance 1.
    torch.testing.assert_close(features.mean(1), torch.zeros(1, 2, 3), atol=1e-4, rtol=0)
    torch.testing.assert_close(features.var(1, unbiased=False), torch.ones(1, 2, 3), atol=1e-3, rtol=0)


def test_registration_imports_neither_torch_nor_timm() -> None:
    code = (
        "import sys, naf_hub; record = naf_hub.info('dinov3_b'); assert record.embed_dim == 768; "
        "assert not {'torch', 'timm'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)

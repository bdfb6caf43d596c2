"""Maps from inside the backbones, against computations by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import naf_hub
from naf_hub import MapError, Want


def made(kind: str) -> tuple[Any, Any, Any, Any, int]:
    """A tiny backbone, its blocks, its first norm and attention of block 1, and its prefix tokens."""
    torch.manual_seed(0)
    if kind == "capi":
        from naf_hub_capi.backbone import Capi

        model: Any = Capi(32, 3, 2).eval()
        blocks = model.model.encoder.blocks
        return model, blocks, blocks[1].residual1.norm, blocks[1].residual1.fn, 16
    if kind == "franca":
        from naf_hub_franca.backbone import Franca

        model = Franca(32, 3, 2, img_size=56).eval()
        network = model.model
    elif kind == "radio":
        from naf_hub_radio.backbone import Radio

        model = Radio(embed_dim=32, depth=3, num_heads=2, position_grid=8).eval()
        network = model.network
    else:
        model = naf_hub.load_backbone(f"timm:{kind}", weights=None)
        network = model.model
    return model, network.blocks, network.blocks[1].norm1, network.blocks[1].attn, network.num_prefix_tokens


KINDS = ("vit_tiny_patch16_224", "eva02_tiny_patch14_224", "capi", "franca", "radio")


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_maps_are_what_the_block_computes(kind: str):
    model, blocks, norm, attention, prefix = made(kind)
    image = torch.rand(2, 3, 3 * model.patch_size, 4 * model.patch_size)
    inputs: list[torch.Tensor] = []
    handle = blocks[1].register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    expected = model(image)
    handle.remove()
    last, key, raw = model.maps(image, Want(), Want(1, "key"), Want(0, norm=False))
    assert torch.equal(last, expected)
    assert torch.equal(raw.flatten(2), inputs[0][:, prefix:].transpose(1, 2))
    x = norm(inputs[0])
    if hasattr(attention, "k_proj") and attention.k_proj is not None:
        by_hand = attention.k_proj(x)
    else:
        by_hand = attention.qkv(x).chunk(3, -1)[1]
    torch.testing.assert_close(key.flatten(2), by_hand[:, prefix:].transpose(1, 2), rtol=1e-4, atol=1e-5)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(MapError, match="layers 0 to"):
        model.maps(image, Want(len(blocks)))


@torch.no_grad()
def test_stages_and_what_they_lack():
    model = naf_hub.load_backbone("timm:convnext_atto", weights=None)
    image = torch.rand(1, 3, 64, 96)
    fine, last = model.maps(image, Want(0), Want())
    assert fine.shape[-2:] == (16, 24)
    assert torch.equal(last, model(image))
    with pytest.raises(MapError, match="tokens of layers"):
        model.maps(image, Want(0, "key"))

"""RADIO against tensors recorded from the published implementation, on small random models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from naf_hub_radio.backbone import Radio
from naf_hub_timm.backbone import TimmBackbone

SMALL = {"embed_dim": 48, "depth": 3, "num_heads": 4, "position_grid": 16}
OPTIONS = {
    "radio_v25_tiny": SMALL,
    "cradio_v3_tiny": SMALL | {"layer_scale": True},
    "radio_v25_g_tiny": SMALL
    | {"patch_size": 14, "swiglu_width": 128, "prefix_tokens": 5}
    | {"layer_scale": True, "final_norm": True, "patch_bias": True},
}
SIZES = {
    "radio_v25_tiny": ("square_128x128", "wide_96x160", "tall_208x80", "max_256x256"),
    "cradio_v3_tiny": ("square_128x128", "wide_96x160", "tall_208x80"),
    "radio_v25_g_tiny": ("square_112x112", "wide_84x154"),
}
# The table of positions is used as it is at its own size, so nothing was recorded for the other resize.
CASES = [
    (name, size, align)
    for name, sizes in SIZES.items()
    for size in sizes
    for align in ((False,) if size.startswith("max") else (False, True))
]
TOLERANCE = {"atol": 1e-4, "rtol": 1e-4}


def read(goldens: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(weights under their released names, recorded tensors)."""
    tensors = load_file(goldens / "backbones" / f"{name}.safetensors")
    prefix = "state_dict."
    state = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    return state, {k: v for k, v in tensors.items() if not k.startswith(prefix)}


def radio(goldens: Path, name: str, **options) -> tuple[Radio, dict[str, Tensor], dict[str, Tensor]]:
    state, recorded = read(goldens, name)
    model = Radio(**OPTIONS[name], **options).eval()
    model.load_weights(state)
    return model, recorded, state


def key(kind: str, size: str, align: bool) -> str:
    return f"{kind}.align_corners.{size}" if align else f"{kind}.{size}"


@pytest.mark.parametrize(("name", "size", "align"), CASES)
@torch.no_grad()
def test_features(goldens: Path, name: str, size: str, align: bool):
    model, recorded, _ = radio(goldens, name, align_corners=align)
    torch.testing.assert_close(
        model(recorded[f"input.{size}"]), recorded[key("output", size, align)], **TOLERANCE
    )


@pytest.mark.parametrize(("name", "size", "align"), [c for c in CASES if not c[1].startswith("max")])
@torch.no_grad()
def test_summary_tokens(goldens: Path, name: str, size: str, align: bool):
    model, recorded, state = radio(goldens, name, align_corners=align)
    ((_, tokens),) = model.network.forward_intermediates(
        model.normalize(recorded[f"input.{size}"]),
        indices=1,
        norm=True,
        intermediates_only=True,
        return_prefix_tokens=True,
    )
    found = tokens[:, state["radio_model.summary_idxs"]].flatten(1)
    torch.testing.assert_close(found, recorded[key("summary", size, align)], **TOLERANCE)


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", ["square_128x128", "wide_96x160", "tall_208x80"])
@torch.no_grad()
def test_positions_added_to_the_patches(goldens: Path, size: str, align: bool):
    model, recorded, _ = radio(goldens, "radio_v25_tiny", align_corners=align)
    tokens, _ = model.network.embeds(torch.zeros_like(recorded[f"input.{size}"]))
    torch.testing.assert_close(
        tokens[:, model.prefix_tokens :], recorded[key("pos_embed", size, align)], **TOLERANCE
    )


@pytest.mark.parametrize("name", ["radio_v25_tiny", "cradio_v3_tiny"])
@torch.no_grad()
def test_an_inner_block(goldens: Path, name: str):
    model, recorded, _ = radio(goldens, name)
    (found,) = model.network.forward_intermediates(
        model.normalize(recorded["input.wide_96x160"]), indices=[1], intermediates_only=True
    )
    torch.testing.assert_close(found, recorded["output_block1.wide_96x160"], **TOLERANCE)


@torch.no_grad()
def test_the_two_resizes_differ(goldens: Path):
    """Otherwise the goldens could not tell them apart."""
    model, recorded, _ = radio(goldens, "radio_v25_tiny", align_corners=True)
    found = model(recorded["input.wide_96x160"])
    assert (found - recorded["output.wide_96x160"]).abs().max() > 0.01


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", SIZES["cradio_v3_tiny"])
@torch.no_grad()
def test_cradio_v3_through_timm(goldens: Path, size: str, align: bool):
    """timm's own C-RADIOv3 class, made small, reads the released keys and gives the same features."""
    state, recorded = read(goldens, "cradio_v3_tiny")
    model = TimmBackbone(
        "naflexvit_base_patch16_radio_v3.c_radio",
        embed_dim=48,
        depth=3,
        num_heads=4,
        pos_embed_grid_size=(16, 16),
        pos_embed_align_corners=align,
    ).eval()
    model.load_weights(state)
    torch.testing.assert_close(
        model(recorded[f"input.{size}"]), recorded[key("output", size, align)], **TOLERANCE
    )

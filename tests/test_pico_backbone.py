"""The bundled backbone and its weights."""

from __future__ import annotations

import importlib.resources
import json
from pathlib import Path

import pytest
import torch
from torch import nn

import naf_hub
from naf_hub.testing import check_backbone
from naf_hub_pico.network import Pico


def weights_folder() -> Path:
    return Path(str(importlib.resources.files("naf_hub_pico") / "weights" / "default"))


def test_conformance() -> None:
    check_backbone("pico")


def test_size_and_record() -> None:
    record = naf_hub.info("pico")
    model = naf_hub.load_backbone("pico", weights=None)
    assert isinstance(record, naf_hub.BackboneRecord)
    assert (record.embed_dim, record.patch_size) == (model.embed_dim, model.patch_size) == (256, 16)
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 1.5e6


def test_weights_ship_with_config_and_card() -> None:
    folder = weights_folder()
    file = folder / "model.safetensors"
    assert file.stat().st_size <= 3_000_000
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    shipped = naf_hub.info("pico").weights["default"]
    assert (config["name"], config["size"], config["sha256"]) == ("pico", shipped.size, shipped.sha256)
    assert shipped.license == "Apache-2.0"
    card = (folder / "README.md").read_text(encoding="utf-8")
    for word in (
        "ViT-S/14",
        "MIT",
        "unknown",
        "Apache-2.0",
        "CamVid",
        "mIoU",
        "no network",
        str(config["provenance"]["steps"]),
    ):
        assert word in card, f"the card does not mention {word}"


def test_default_weights_load_in_single_precision() -> None:
    model = naf_hub.load_backbone("pico")
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert not model.training
    torch.manual_seed(0)
    with torch.no_grad():
        features = model(torch.rand(1, 3, 64, 96))
    assert features.shape == (1, 256, 4, 6)
    assert torch.isfinite(features).all()


def test_weights_are_trained() -> None:
    """Every tensor has left its initial value."""
    model, fresh = naf_hub.load_backbone("pico"), naf_hub.load_backbone("pico", weights=None)
    state = fresh.state_dict()
    changed = [
        k for k, v in model.state_dict().items() if v.is_floating_point() and not torch.equal(v, state[k])
    ]
    assert len(changed) == sum(v.is_floating_point() for v in state.values())


def test_a_feature_describes_the_centre_of_its_cell() -> None:
    """With symmetric kernels a mirrored image gives mirrored features: no shift between image and grid.

    A stride-2 3x3 convolution with padding 1 shifts, and fails this.
    """
    torch.manual_seed(0)
    model = Pico().eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.data
            module.weight.data = (weight + weight.flip(-1) + weight.flip(-2) + weight.flip(-1, -2)) / 4
    image = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        for side in (-1, -2):
            torch.testing.assert_close(model(image.flip(side)), model(image).flip(side), atol=1e-4, rtol=1e-3)
        model.stem[0][0] = nn.Conv2d(3, 24, 3, stride=2, padding=1, bias=False)
        weight = model.stem[0][0].weight.data
        model.stem[0][0].weight.data = weight + weight.flip(-1)
        assert not torch.allclose(model(image.flip(-1)), model(image).flip(-1), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("size", [(37, 50), (5, 7), (16, 241)])
def test_any_size(size: tuple[int, int]) -> None:
    model = naf_hub.load_backbone("pico")
    with torch.no_grad(), pytest.warns(UserWarning, match="multiples of 16 pixels"):
        features = model(torch.rand(1, 3, *size))
    assert tuple(features.shape) == (1, 256, *model.grid(*size))


def test_wrong_architecture() -> None:
    with pytest.raises(ValueError, match="four widths and two depths"):
        Pico(widths=(8, 16))

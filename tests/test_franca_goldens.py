"""Franca against tensors recorded from the authors' code."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

from naf_hub_franca.backbone import Franca
from naf_hub_franca.rasa import RasaHead
from naf_hub_franca.transformer import resample_positions, swiglu_width

CASES = ("native_98x98", "square_140x140", "wide_112x182", "small_56x84")
GOLDEN = load_file(Path(__file__).parent / "goldens" / "backbones" / "franca_tiny.safetensors")
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
TINY = {"embed_dim": 64, "depth": 4, "num_heads": 4}


def group(prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix + "."): v for k, v in GOLDEN.items() if k.startswith(prefix + ".")}


def released(layers: int | None) -> dict[str, Tensor]:
    """The backbone in the released key layout, with a RASA head beside it."""
    head = {} if layers is None else {f"rasa_head.{k}": v for k, v in group(f"rasa{layers}").items()}
    return {**group("state_dict"), **head}


def model(layers: int | None) -> Franca:
    # Made for another table and another number of planes than the weights have: loading must adopt theirs.
    franca = Franca(**TINY, img_size=140, rasa=layers is not None, rasa_layers=3)
    franca.load_weights(released(layers))
    return franca.eval()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("layers", [None, 8, 9])
def test_features(case: str, layers: int | None):
    with torch.no_grad():
        found = model(layers).extract(GOLDEN[f"input.{case}"])
    name = "output" if layers is None else f"output_rasa{layers}"
    torch.testing.assert_close(found, GOLDEN[f"{name}.{case}"], **TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_positions(case: str):
    table = GOLDEN["state_dict.pos_embed"]
    h, w = (side // 14 for side in GOLDEN[f"input.{case}"].shape[-2:])
    torch.testing.assert_close(resample_positions(table, (h, w)), GOLDEN[f"pos_embed.{case}"], **TOLERANCE)


@pytest.mark.parametrize("case", CASES[1:])
@pytest.mark.parametrize("antialias", [False, True])
def test_an_ordinary_resize_of_positions_is_noticed(case: str, antialias: bool):
    table = GOLDEN["state_dict.pos_embed"]
    h, w = (side // 14 for side in GOLDEN[f"input.{case}"].shape[-2:])
    square = table[:, 1:].unflatten(1, (7, 7)).permute(0, 3, 1, 2)
    resized = F.interpolate(square, (h, w), mode="bicubic", antialias=antialias).flatten(2).transpose(1, 2)
    assert (resized - GOLDEN[f"pos_embed.{case}"][:, 1:]).abs().max() > 1e-2


def test_a_grid_of_as_many_cells_but_another_shape_is_resampled():
    table = torch.rand(1, 1 + 36, 8)
    found = resample_positions(table, (4, 9))
    assert found.shape == table.shape
    assert not torch.allclose(found[:, 1:], table[:, 1:], atol=1e-3)
    assert resample_positions(table, (6, 6)) is table


@pytest.mark.parametrize("layers", [8, 9])
def test_the_rasa_head_is_one_linear_map_that_leaves_nothing_in_its_last_plane(layers: int):
    head = RasaHead(64, layers).double()
    head.load_state_dict(group(f"rasa{layers}"))
    product = torch.eye(64, dtype=torch.float64)
    for layer in (*head.pre_pos_layers, head.pos_pred):
        weight = layer.weight.detach()
        product = product @ (torch.eye(64, dtype=torch.float64) - torch.linalg.pinv(weight) @ weight)
    features = torch.randn(2, 64, 3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = head(features)
    torch.testing.assert_close(found, torch.einsum("bchw,cd->bdhw", features, product))
    assert torch.einsum("pc,bchw->bphw", head.pos_pred.weight, found).abs().max() < 1e-9


def test_widths_of_the_feed_forward():
    assert [swiglu_width(dim) for dim in (64, 768, 1024, 1536)] == [176, 2048, 2736, 4096]


def test_the_public_interface_normalises():
    franca = model(8)
    image = torch.rand(1, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        expected = franca.extract((image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
        torch.testing.assert_close(franca(image), expected, **TOLERANCE)

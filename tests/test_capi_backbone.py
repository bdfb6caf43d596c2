"""CAPI: tensors recorded from the authors' code, conformance, sizes, precision, key layouts, errors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import naf_hub_capi
from naf_hub import BackboneRecord, WeightsError
from naf_hub.testing import BACKBONE_CHECKS
from naf_hub.testing.subject import Subject
from naf_hub.weights.files import read_state_dict, save_weights
from naf_hub_capi import rope
from naf_hub_capi.backbone import Capi
from naf_hub_capi.encoder import REGISTERS

CASES = ("square_112x112", "wide_84x168", "tall_196x70", "row_14x112")
GOLDEN = load_file(Path(__file__).parent / "goldens" / "backbones" / "capi_tiny.safetensors")
TOLERANCE = {"atol": 2e-5, "rtol": 1e-4}
TINY = {"embed_dim": 64, "depth": 3, "num_heads": 4}
IMAGE = GOLDEN["input.wide_84x168"]


def released() -> dict[str, Tensor]:
    return {k.removeprefix("state_dict."): v for k, v in GOLDEN.items() if k.startswith("state_dict.")}


def model(state: dict[str, Tensor] | None = None) -> Capi:
    capi = Capi(**TINY)
    capi.load_weights(released() if state is None else state)
    return capi.eval()


def features(capi: Capi, image: Tensor = IMAGE) -> Tensor:
    with torch.no_grad():
        return capi.extract(image)


@pytest.mark.parametrize("case", CASES)
def test_features(case: str):
    found = features(model(), GOLDEN[f"input.{case}"])
    torch.testing.assert_close(found, GOLDEN[f"output.{case}"], **TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_registers(case: str):
    with torch.no_grad():
        found = model().model(GOLDEN[f"input.{case}"])[:, :REGISTERS]
    torch.testing.assert_close(found, GOLDEN[f"registers.{case}"], **TOLERANCE)


@pytest.mark.parametrize("case", CASES)
def test_coordinates(case: str):
    h, w = (side // 14 for side in GOLDEN[f"input.{case}"].shape[-2:])
    found = rope.token_coordinates(REGISTERS, (h, w), torch.empty(0))
    torch.testing.assert_close(found, GOLDEN[f"coords.{case}"][0])


def test_register_coordinates():
    torch.testing.assert_close(rope.edge_coordinates(16, torch.empty(0)), GOLDEN["register_coords"][0])


def test_registers_of_a_single_column_or_cell_stand_in_its_box():
    column = rope.token_coordinates(16, (5, 1), torch.empty(0))
    assert (column[:, 1] == 0).all()
    assert column[:16, 0].max() == 1
    assert (rope.token_coordinates(16, (1, 1), torch.empty(0)) == 0).all()


@pytest.mark.parametrize("head_dim", [16, 64])
def test_initial_frequencies(head_dim: int):
    expected = GOLDEN[f"rope_freqs_formula_head_dim{head_dim}"]
    torch.testing.assert_close(rope.Rope(head_dim).freqs, expected, atol=1e-5, rtol=1e-5)


def test_frequencies_come_from_the_weights():
    capi = model()
    for block in capi.model.encoder.blocks:
        block.residual1.fn.rope.freqs = rope.Rope(16).freqs
    assert (features(capi) - GOLDEN["output.wide_84x168"]).abs().max() > 1e-2


def test_a_proper_rotation_is_noticed(monkeypatch: pytest.MonkeyPatch):
    """With both partners of a pair turned by one angle the result is another."""

    def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        cosines, sines = (torch.cat([t[:, :half]] * 2, -1) for t in (cosines, sines))
        first, second = x.chunk(2, dim=-1)
        return x * cosines + torch.cat([-second, first], dim=-1) * sines

    monkeypatch.setattr("naf_hub_capi.encoder.turn", rotate)
    assert (features(model()) - GOLDEN["output.wide_84x168"]).abs().max() > 1e-2


def test_the_public_interface_normalises():
    image = torch.rand(1, 3, 56, 84, generator=torch.Generator().manual_seed(0))
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        found = model()(image)
    expected = features(model(), (image - mean.view(3, 1, 1)) / std.view(3, 1, 1))
    torch.testing.assert_close(found, expected, **TOLERANCE)


@pytest.mark.parametrize("check", BACKBONE_CHECKS)
def test_conformance(check: str):
    def make() -> Capi:
        torch.manual_seed(0)
        return Capi(32, 2, 2).eval().requires_grad_(False)

    record = BackboneRecord(name="tiny", summary="tiny", target="a:B", embed_dim=32, patch_size=14)
    BACKBONE_CHECKS[check](Subject(make, record))


def registered() -> list[BackboneRecord]:
    found: list[BackboneRecord] = []
    naf_hub_capi.register_backbones(found.append)
    return found


def test_record():
    (record,) = registered()
    assert (record.name, record.embed_dim, record.patch_size, record.native_size) == (
        "capi_l14",
        1024,
        14,
        224,
    )
    assert not record.non_commercial
    files = {name: weights.source.rsplit("/", 1)[-1] for name, weights in record.weights.items()}
    assert files == {
        "default": "capi_vitl14_lvd.pth",
        "p205": "capi_vitl14_p205.pth",
        "in22k": "capi_vitl14_i22k.pth",
        "in1k": "capi_vitl14_in1k.pth",
    }


def test_real_size():
    (record,) = registered()
    with torch.device("meta"):
        capi = Capi(**record.options)
        for height, width in ((448, 448), (336, 448)):
            found = capi(torch.empty(1, 3, height, width))
            assert tuple(found.shape) == (1, 1024, height // 14, width // 14)


def test_reduced_precision():
    exact = features(model())
    for dtype, bound in ((torch.float64, 1e-5), (torch.bfloat16, 0.06)):
        found = features(model().to(dtype), IMAGE.to(dtype))
        assert found.dtype == dtype
        assert (found.double() - exact.double()).norm() < bound * exact.norm()
    with torch.autocast("cpu", torch.bfloat16):
        found = features(model())
    assert (found.float() - exact).norm() < 0.03 * exact.norm()


def test_training_state_beside_the_backbone_is_left_out():
    state = {**released(), "head.weight": torch.zeros(3), "center": torch.zeros(1)}
    assert torch.equal(features(model(state)), features(model()))
    inner = {k.removeprefix("backbone."): v for k, v in released().items()}
    assert torch.equal(features(model(inner)), features(model()))


def test_own_weights_round_trip(tmp_path: Path):
    save_weights(tmp_path / "w", model(), name="capi_l14", options={})
    state = read_state_dict(tmp_path / "w" / "model.safetensors")
    assert torch.equal(features(model(state)), features(model()))


BLOCK = "backbone.encoder.blocks.1.residual1.fn"
WRONG = {
    "missing": (
        lambda s: s.pop(f"{BLOCK}.rope.freqs"),
        r"missing encoder\.blocks\.1\.residual1\.fn\.rope\.freqs",
    ),
    "unexpected": (lambda s: s.update({f"{BLOCK}.q_norm": torch.zeros(1)}), r"unexpected encoder\..*q_norm"),
    "misshapen": (
        lambda s: s.update({"backbone.registers": torch.zeros(1, 4, 64)}),
        r"registers has shape \(1, 4, 64\), expected \(1, 16, 64\)",
    ),
    "something else": (lambda s: (s.clear(), s.update(weight=torch.zeros(1))), "missing registers"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_wrong_weights(kind: str):
    spoil, message = WRONG[kind]
    state = released()
    spoil(state)
    with pytest.raises(WeightsError, match=message):
        model(state)


def test_impossible_options():
    with pytest.raises(ValueError, match=r"multiple of 4 \* num_heads = 20"):
        Capi(64, 1, 5)

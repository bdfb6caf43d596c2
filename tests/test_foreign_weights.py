"""The one protocol for weights with other names: both ways of loading follow from it, and nothing is half done."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import naf_hub
from naf_hub.interfaces import Shape, Step
from naf_hub.weights.fill import stream_into


class Foreign(naf_hub.ForeignWeights):
    """Takes ``w`` transposed as its ``linear.weight``, of as many rows as it has; refuses to say so of ``flat``."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2, bias=False)

    def plan_weights(self, shapes: Mapping[str, Shape]) -> dict[str, Step] | None:
        if "flat" in shapes:
            return None
        if "w" in shapes and shapes["w"][1] != self.linear.weight.shape[0]:
            self.linear = nn.Linear(3, shapes["w"][1], bias=False, device=self.linear.weight.device)
        return {"linear.weight" if name == "w" else name: (name, Tensor.t) for name in shapes}

    def convert_weights(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"linear.weight": state["flat"].view(2, 3)}


def meta() -> Foreign:
    with torch.device("meta"):
        return Foreign()


@pytest.mark.parametrize("rows", [2, 5])
def test_both_ways_of_loading_follow_from_one_plan(tmp_path: Path, rows: int):
    state = {"w": torch.randn(3, rows)}
    save_file(state, tmp_path / "a.safetensors")
    loaded, streamed = Foreign(), meta()
    loaded.load_weights(state)
    assert stream_into(streamed, tmp_path / "a.safetensors", torch.float32, None, "test")
    for model in (loaded, streamed):
        assert torch.equal(model.linear.weight, state["w"].t())


def test_what_only_values_tell_is_converted(tmp_path: Path):
    state = {"flat": torch.arange(6.0)}
    save_file(state, tmp_path / "a.safetensors")
    assert not stream_into(meta(), tmp_path / "a.safetensors", torch.float32, None, "test")
    model = Foreign()
    model.load_weights(state)
    assert model.linear.weight.flatten().tolist() == state["flat"].tolist()


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"w": torch.ones(3, 5), "more": torch.ones(1)}, "unexpected more"),
        ({"w": torch.ones(4, 5)}, r"linear.weight has shape \(5, 4\), expected \(5, 3\)"),
        ({"w": torch.full((3, 5), float("nan"))}, "w contains NaN"),
        ({}, "missing linear.weight"),
    ],
)
def test_refused_weights_leave_the_model_as_it_was(tmp_path: Path, state: dict[str, Tensor], message: str):
    model = Foreign()
    part, kept = model.linear, model.linear.weight.clone()
    with pytest.raises(naf_hub.WeightsError, match=message):
        model.load_weights(state)
    assert model.linear is part
    assert torch.equal(model.linear.weight, kept)
    if state:
        save_file(state, tmp_path / "a.safetensors")
        with pytest.raises(naf_hub.WeightsError, match=message):
            stream_into(meta(), tmp_path / "a.safetensors", torch.float32, None, "test")

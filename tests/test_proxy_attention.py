"""Proxy attention, CLIP's tower and sliding windows as recorded from ProxyCLIP, in bounded memory."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from naf_hub_open_vocabulary.clip import Clip
from naf_hub_open_vocabulary.proxy_attention import attend_by_proxy, mix_by_similarity
from naf_hub_open_vocabulary.segmenter import predict
from naf_hub_open_vocabulary.sliding import SlidingWindow, padding, working_size

GOLDENS = Path(__file__).parent / "goldens"
ATTENTION, TOWER, WINDOWS = (
    GOLDENS / f"open_vocabulary_{part}.safetensors"
    for part in ("proxy_attention", "clip_tower", "sliding_window")
)


def settings(path: Path) -> dict[str, str]:
    with safe_open(path, "pt") as file:
        return file.metadata()


CASES = json.loads(settings(ATTENTION)["cases"])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("memory", [None, 1])
def test_proxy_attention_is_as_recorded(name, memory):
    case, recorded = CASES[name], load_file(ATTENTION)
    attention = nn.MultiheadAttention(24, 3, batch_first=True)
    attention.load_state_dict(
        {
            key: recorded[key.replace(".", "_")]
            for key in ("in_proj_weight", "in_proj_bias", "out_proj.weight", "out_proj.bias")
        }
    )
    tokens, features = recorded[f"{name}.tokens"].transpose(0, 1), recorded[f"{name}.ex_feats"]
    grid = (case["token_rows"], case["token_cols"])
    found = attend_by_proxy(attention, tokens, grid, features, case["beta"], case["gamma"], memory)
    torch.testing.assert_close(found, recorded[f"{name}.output"].transpose(0, 1), rtol=1e-4, atol=1e-4)
    weights = mix_by_similarity(
        features, torch.eye(features[0, 0].numel()).expand(len(features), -1, -1), case["beta"], case["gamma"]
    )
    matrix = recorded[f"{name}.attention"]
    torch.testing.assert_close(weights[:, : matrix.shape[1]], matrix, rtol=1e-4, atol=1e-4)


class Largest(TorchDispatchMode):
    """Notes the elements of the largest tensor that anything makes."""

    elements = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.elements = max(self.elements, result.numel())
        return result


def test_the_whole_similarity_is_never_there():
    """1,024 positions: a million similarities; no tensor holds more than a sixteenth of them."""
    features, values = torch.randn(1, 8, 32, 32), torch.randn(1, 1024, 4)
    with Largest() as largest:
        pieces = mix_by_similarity(features, values, 1.2, 3.0, 2**20)
    assert largest.elements <= 2**20 // 16
    with Largest() as largest:
        whole = mix_by_similarity(features, values, 1.2, 3.0, 2**40)
    assert largest.elements == 1024**2
    torch.testing.assert_close(pieces, whole)


def test_where_all_is_alike_each_position_attends_to_itself():
    features = torch.ones(1, 3, 4, 4) + 0.1 * torch.randn(1, 3, 4, 4)  # mean similarity above 1 / 1.2
    values = torch.randn(1, 16, 5)
    torch.testing.assert_close(mix_by_similarity(features, values, 1.2, 3.0), values)
    empty = features * (torch.arange(16).view(4, 4) != 5)
    assert mix_by_similarity(empty, values, 1.0, 3.0).isfinite().all()


@pytest.fixture(scope="module")
def tower() -> Clip:
    """The recorded tower, whose pictures are normalised already."""
    config = json.loads(settings(TOWER)["config"])
    vision = {"image_size": config["image_size"], "patch_size": config["patch_size"], "width": config["width"],
              "layers": config["layers"], "head_width": config["width"] // config["heads"]}  # fmt: skip
    text = {"vocab_size": 8, "width": 8, "heads": 1, "layers": 1}
    model = open_clip.CLIP(config["output_dim"], vision, text, quick_gelu=True)
    recorded = load_file(TOWER)
    model.visual.load_state_dict(
        {k.removeprefix("param."): v for k, v in recorded.items() if k.startswith("param.")}
    )
    return Clip(model, (0.0,) * 3, (1.0,) * 3, {}).eval().requires_grad_(False)


@pytest.mark.parametrize("name", ["same", "larger"])
def test_the_tower_is_as_recorded(tower, name):
    recorded = load_file(TOWER)
    trunk = tower.trunk(recorded[f"{name}.image"])
    for key, features in (("output", recorded[f"{name}.ex_feats"]), ("output_without_proxy", None)):
        found = tower.finish(*trunk, features, 1.2, 3.0).flatten(2).mT
        torch.testing.assert_close(found, recorded[f"{name}.{key}"], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", json.loads(settings(WINDOWS)["cases"]))
def test_windows_and_predictions_are_as_recorded(name):
    case, recorded = json.loads(settings(WINDOWS)["cases"])[name], load_file(WINDOWS)
    image, weight = recorded[f"{name}.image"], recorded["stub_weight"]

    def classify(crop):
        height, width = crop.shape[-2:]
        slope = 0.01 * torch.linspace(0, 1, height)[:, None] + 0.02 * torch.linspace(0, 1, width)
        order = torch.arange(len(weight))[:, None, None]
        return torch.einsum("qc,bchw->bqhw", weight, crop) + order * slope

    windows = SlidingWindow(image.shape[-2:], case["crop"], case["stride"], 8)
    scores = windows.join(map(classify, windows.cut(image, torch.zeros(3))))
    enlarged = nn.functional.interpolate(scores, case["ori"], mode="bilinear")
    torch.testing.assert_close(enlarged, recorded[f"{name}.logits"], rtol=1e-5, atol=1e-5)
    owners = recorded["query_idx"].tolist()
    for key, threshold in (("pred", 0.2), ("pred_no_threshold", 0.0)):
        found = predict(scores[0], owners, case["ori"], 40.0, threshold)
        assert torch.equal(found, recorded[f"{name}.{key}"][0].long())


def test_paddings_are_as_recorded():
    for height, width, *sides in load_file(WINDOWS)["padsizes"].tolist():
        assert padding(height, width, 56) == tuple(sides)


def test_windows_hold_the_pixels_as_they_are():
    image, fill = torch.rand(1, 3, 9, 12), torch.tensor([0.4, 0.5, 0.6])
    (crop,) = SlidingWindow((9, 12), 16, 8, 8).cut(image, fill)
    assert torch.equal(crop[:, :, 3:12, 2:14], image)
    assert torch.equal(crop[0, :, 2, 2], fill)


def test_pictures_keep_their_aspect():
    assert working_size(375, 500, 336, 2048) == (336, 448)
    assert working_size(100, 2000, 336, 2048) == (102, 2048)
    assert working_size(1, 9000, 336, 2048) == (1, 2048)

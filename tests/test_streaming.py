"""Models larger than half of the memory: sharded files, streamed, in the wanted precision."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict
from safetensors.torch import save_file
from torch import nn

import naf_hub
from naf_hub.weights import progress
from naf_hub.weights.checksums import sha256_of
from naf_hub.weights.fill import stream_into
from naf_hub.weights.hub import INDEX
from naf_hub.weights.shards import shards

# DINOv3-7B's architecture (RoPE, registers, LayerScale), shrunk to some 57 M parameters.
TWIN = {"embed_dim": 768, "depth": 8, "num_heads": 12}
NAME = "timm:vit_small_patch16_dinov3"


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder of float32 shards in timm's key names, and the parameters in it."""
    torch.manual_seed(0)
    model = naf_hub.load_backbone(NAME, weights=None, **TWIN)
    folder = tmp_path_factory.mktemp("twin")
    network: torch.nn.Module = model.model  # pyright: ignore[reportAssignmentType]
    save_torch_state_dict(network.state_dict(), folder, max_shard_size="40MB")
    assert len(list(folder.glob("*.safetensors"))) >= 4
    return folder, sum(p.numel() for p in network.parameters())


def test_sharded_weights_load_alike_streamed_or_not(sharded):
    folder, _ = sharded
    whole = naf_hub.load_backbone(NAME, weights=folder, **TWIN)
    streamed = naf_hub.load_backbone(NAME, weights=folder, dtype=torch.bfloat16, **TWIN)
    assert {p.dtype for p in streamed.parameters()} == {torch.bfloat16}
    assert not any(t.is_meta for t in (*streamed.parameters(), *streamed.buffers()))
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, found = whole(image), streamed(image)
    assert found.dtype == torch.float32
    assert (found - expected).norm() / expected.norm() < 0.03


def peak_of_loading(name: str, weights: Path, options: dict[str, int], dtype: str | None = None) -> int:
    """Bytes that loading takes at most, in a process that has imported all and loaded a small one before."""
    small = {**options, "depth": 1}
    code = (
        "import sys, timm, torch, naf_hub\n"
        "from naf_hub.measuring import PeakMemory\n"
        f"naf_hub.load_backbone({name!r}, weights=None, **{small!r})\n"
        "with PeakMemory('cpu') as peak:\n"
        f"    model = naf_hub.load_backbone({name!r}, weights=sys.argv[1], dtype={dtype}, **{options!r})\n"
        "print(peak.bytes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(weights)], capture_output=True, text=True, timeout=200, check=True
    )
    return int(done.stdout)


@pytest.mark.parametrize(("dtype", "size"), [("torch.bfloat16", 2), (None, 4)])
def test_peak_memory_stays_near_the_weights(sharded, dtype, size):
    folder, parameters = sharded
    weights = size * parameters
    # Below the weights, as memory that the small one gave back may be used again: an eighth of them, in float32.
    assert 0.6 * weights < peak_of_loading(NAME, folder, TWIN, dtype) < 1.3 * weights


# The same depth and width for the others, which have key names, and some shapes, of their own.
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("franca_b", {"rasa": False}),
        ("capi_l14", {}),
        ("radio_v2_5_b", {"position_grid": 32}),
    ],
)
def test_other_families_are_streamed_too(tmp_path, name, options):
    options = TWIN | options
    with torch.device("meta"):
        model = naf_hub.info(name).resolve()(**{**naf_hub.info(name).options, **options})
    generator = torch.Generator().manual_seed(0)
    state = {k: torch.randn(v.shape, generator=generator) for k, v in model.state_dict().items()}
    file = tmp_path / "model.safetensors"
    save_file(state, file)
    loaded = naf_hub.load_backbone(name, weights=file, **options)
    assert all(torch.equal(value, state[key]) for key, value in loaded.state_dict().items())
    assert peak_of_loading(name, file, options) < 1.3 * file.stat().st_size
    halved = naf_hub.load_backbone(name, weights=file, dtype=torch.bfloat16, **options)
    assert all(torch.equal(v, state[k].bfloat16()) for k, v in halved.state_dict().items())
    assert not any(p.requires_grad for p in halved.parameters())
    file.unlink()
    with torch.no_grad():  # what was loaded does not depend on the file any more
        assert loaded(torch.rand(1, 3, 4 * loaded.patch_size, 3 * loaded.patch_size)).shape[1] == 768


class Scaled(naf_hub.ForeignWeights):
    """Holds a buffer that no file does, and computes it, or claims to."""

    def __init__(self, honest: bool, dtype: torch.dtype) -> None:
        super().__init__()
        self.honest = honest
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("table", torch.empty(3, dtype=dtype), persistent=False)

    def init_non_persistent_buffers(self) -> None:
        if self.honest:
            self.table.fill_(7)

    def plan_weights(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, None]]:
        return {name: (name, None) for name in shapes}


@pytest.mark.parametrize("dtype", [torch.float32, torch.int64])
@pytest.mark.parametrize("honest", [True, False])
def test_buffers_that_nobody_computes_are_noticed(tmp_path, honest, dtype):
    save_file({"weight": torch.arange(3.0)}, tmp_path / "a.safetensors")
    with torch.device("meta"):
        model = Scaled(honest, dtype)
    assert stream_into(model, tmp_path / "a.safetensors", torch.float32, None, "test") is honest
    if honest:
        assert model.table.tolist() == [7, 7, 7]
        assert model.weight.tolist() == [0, 1, 2]


class Table(naf_hub.ForeignWeights):
    """Has such a buffer and nothing that computes it."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("table", torch.arange(3), persistent=False)

    def plan_weights(self, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[str, None]]:
        return {name: (name, None) for name in shapes}


def test_buffers_without_a_way_to_compute_them_are_noticed(tmp_path):
    save_file({"weight": torch.arange(3.0)}, tmp_path / "a.safetensors")
    with torch.device("meta"):
        model = Table()
    assert not stream_into(model, tmp_path / "a.safetensors", torch.float32, None, "test")


@pytest.mark.parametrize("large", [True, False])
def test_large_files_are_checked_and_loaded_behind_a_bar(sharded, monkeypatch, capsys, large):
    monkeypatch.setattr(progress, "LARGE", 1000 if large else 1 << 30)
    file = next(iter(sharded[0].glob("*-00002-*.safetensors")))
    assert sha256_of(file) == hashlib.sha256(file.read_bytes()).hexdigest()
    naf_hub.load_backbone(NAME, weights=sharded[0], **TWIN)
    drawn = capsys.readouterr().err
    assert (f"checking {file.name}:" in drawn) is large
    assert ("loading:" in drawn) is large


def test_a_tensor_outside_parameters_and_buffers_is_noticed(tmp_path):
    save_file({"weight": torch.arange(3.0)}, tmp_path / "a.safetensors")
    with torch.device("meta"):
        model = Scaled(True, torch.float32)
        model.scale = torch.ones(1)
    assert not stream_into(model, tmp_path / "a.safetensors", torch.float32, None, "test")


def test_models_that_cannot_be_streamed_load_the_usual_way(tmp_path):
    """timm converts these: positions of another size; in both precisions the result is that of load_weights."""
    source = naf_hub.load_backbone("timm:test_vit", weights=None)
    state = {k.removeprefix("model."): v + 0.1 for k, v in source.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    usual = naf_hub.load_backbone("timm:test_vit", weights=None, img_size=96)
    usual.load_weights(state)  # pyright: ignore[reportCallIssue]
    for dtype in (None, torch.bfloat16):
        loaded = naf_hub.load_backbone(
            "timm:test_vit", weights=tmp_path / "a.safetensors", dtype=dtype, img_size=96
        )
        expected = usual.to(dtype or torch.float32).state_dict()
        assert all(torch.equal(value, expected[key]) for key, value in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: next(iter(f.glob("*-00002-*.safetensors"))).unlink(), "shard model-00002.* is missing"),
        (lambda f: next(iter(f.glob("*-00002-*.safetensors"))).write_bytes(b"x"), "not a valid safetensors"),
        (lambda f: (f / INDEX).write_text("{"), "not a readable JSON file"),
        (
            lambda f: (f / INDEX).write_text(json.dumps({"weight_map": {"a": "../b"}})),
            "no safetensors file in its folder",
        ),
    ],
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, None])
def test_damaged_shards_are_told(sharded, tmp_path, edit, message, dtype):
    for file in sharded[0].iterdir():
        (tmp_path / file.name).symlink_to(file)
    for file in [tmp_path / INDEX, next(iter(tmp_path.glob("*-00002-*")))]:
        content = file.read_bytes()
        file.unlink()
        file.write_bytes(content)
    edit(tmp_path)
    with pytest.raises(naf_hub.WeightsError, match=message):
        naf_hub.load_backbone(NAME, weights=tmp_path, dtype=dtype, **TWIN)


def test_wrong_options_name_the_keys(sharded):
    with pytest.raises(naf_hub.WeightsError, match=r"has shape|missing|unexpected"):
        naf_hub.load_backbone(NAME, weights=sharded[0], dtype=torch.bfloat16, **{**TWIN, "depth": 9})


def test_a_single_file_is_its_own_shard(tmp_path):
    assert shards(tmp_path / "model.safetensors") == [tmp_path / "model.safetensors"]

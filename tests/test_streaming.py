"""Models larger than half of the memory: sharded files, streamed, in the wanted precision."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from huggingface_hub import save_torch_state_dict

import naf_hub
from naf_hub.streaming import INDEX, shards

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


def test_peak_memory_stays_near_the_weights(sharded):
    folder, parameters = sharded
    code = (
        "import sys, timm, torch, naf_hub\n"
        "from naf_hub.bench import PeakMemory\n"
        f"naf_hub.load_backbone({NAME!r}, weights=None)\n"  # imports and caches are not the model's
        "with PeakMemory('cpu') as peak:\n"
        f"    model = naf_hub.load_backbone({NAME!r}, weights=sys.argv[1], dtype=torch.bfloat16, **{TWIN!r})\n"
        "print(peak.bytes)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=200, check=True
    )
    weights = 2 * parameters
    assert 0.9 * weights < int(done.stdout) < 1.3 * weights


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda f: next(iter(f.glob("*-00002-*.safetensors"))).unlink(), "shard model-00002.* is missing"),
        (lambda f: next(iter(f.glob("*-00002-*.safetensors"))).write_bytes(b"x"), "not a valid safetensors"),
        (lambda f: (f / INDEX).write_text("{"), "not a safetensors index"),
        (
            lambda f: (f / INDEX).write_text(json.dumps({"weight_map": {"a": "../b"}})),
            "outside its folder",
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

"""Attention keeps to ``memory=``: what it holds beside the output and the maps that its docstring names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_tensors import LiveTensors

from naf_hub.loading import load_upsampler

MAP = 32 * 64 * 64 * 4
# What they gather of a backbone, by the names they give it: the channels and the side of each map.
READ = {
    "vit_up": {"token[-1]": (16, 4), "hidden[2]": (16, 4), "patches": (16, 8)},
    "featsharp": {"token[-1]": (16, 16), "tiles 2": (16, 32)},
}


@pytest.mark.parametrize(
    ("name", "options", "beside"),
    [
        ("anyup", {"qk_dim": 32}, 4 * MAP),
        ("jafar", {"qk_dim": 32}, 4 * MAP),
        ("loftup", {"n_freqs": 4}, 0),
        ("uplift", {"encoder_dims": (8, 8), "dim": 24}, 3 * MAP),
        ("vit_up", {"num_heads": 2, "depth": 2, "patch": 8, "hidden_size": 32, "query_size": 64}, MAP // 4),
        ("featsharp", {"resolution": 32, "inputs": ("tiles", "bilinear")}, 5 * MAP // 4),
        ("upsample_anything", {"steps": 1, "radius": 1, "progress": False}, 0),
    ],
)
def test_peaks_stay_near_the_budget(name: str, options: dict[str, Any], beside: int):
    image, plain = torch.rand(1, 3, 64, 64), torch.randn(1, 16, 16, 16)
    read = {key: torch.randn(1, channels, side, side) for key, (channels, side) in READ.get(name, {}).items()}
    peaks = {}
    for memory in (600_000, 10_000_000):
        model = load_upsampler(name, weights=None, made_for=16, memory=memory, **options)
        with torch.no_grad(), LiveTensors() as watch:
            output = model(image, read or plain, (64, 64))
        peaks[memory] = watch.peak - output.nbytes - image.nbytes
    assert peaks[600_000] <= beside + 600_000
    assert peaks[10_000_000] > max(1.2 * peaks[600_000], 1_000_000)  # a budget that is read
    assert peaks[10_000_000] > beside + 600_000  # and that would be told from a larger one

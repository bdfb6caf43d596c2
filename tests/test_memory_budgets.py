"""Attention keeps to ``memory=``: what it holds beside the output and the maps that its docstring names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from live_tensors import LiveTensors

from naf_hub.loading import load_upsampler

MAP = 32 * 64 * 64 * 4


@pytest.mark.parametrize(
    ("name", "options", "beside"),
    [
        ("anyup", {"qk_dim": 32}, 4 * MAP),
        ("jafar", {"qk_dim": 32}, 4 * MAP),
        ("loftup", {"n_freqs": 4}, 0),
    ],
)
def test_peaks_stay_near_the_budget(name: str, options: dict[str, Any], beside: int):
    image, features = torch.rand(1, 3, 64, 64), torch.randn(1, 16, 16, 16)
    peaks = {}
    for memory in (600_000, 10_000_000):
        model = load_upsampler(name, weights=None, made_for=16, memory=memory, **options)
        with torch.no_grad(), LiveTensors() as watch:
            output = model(image, features)
        peaks[memory] = watch.peak - output.nbytes - image.nbytes
    assert peaks[600_000] <= beside + 600_000
    assert peaks[10_000_000] > max(1.2 * peaks[600_000], 1_000_000)  # a budget that is read

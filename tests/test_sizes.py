"""Pooling of maps that one kernel could not count."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from naf_hub.parts import sizes


@pytest.mark.parametrize("size", [(3, 4), (5, 3), (12, 16)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_maps_too_large_for_one_kernel_are_pooled_by_channels(size, layout, monkeypatch):
    maps = torch.randn(2, 7, 6, 8).contiguous(memory_format=layout).requires_grad_()
    expected = F.adaptive_avg_pool2d(maps, size)
    pooled, pool = [], F.adaptive_avg_pool2d
    monkeypatch.setattr(sizes, "LARGEST_POOLED", 3 * 2 * max(48, size[0] * size[1]))
    monkeypatch.setattr(
        F, "adaptive_avg_pool2d", lambda part, to: (pooled.append(part.shape[1]), pool(part, to))[1]
    )
    found = sizes.average_pool(maps, size)
    assert pooled == [3, 3, 1]
    torch.testing.assert_close(found, expected)
    (found_slope,) = torch.autograd.grad(found.square().sum(), maps)
    (slope,) = torch.autograd.grad(expected.square().sum(), maps)
    torch.testing.assert_close(found_slope, slope)

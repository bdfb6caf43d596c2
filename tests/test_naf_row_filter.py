"""3x3 convolutions down the rows with half the products, against the plain convolution."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub_naf.row_filter import RowFilter, saves_products


def operands(height: int, channels: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(height)
    weight = torch.randn(channels, channels, 3, 3, dtype=dtype) / (3 * channels**0.5)
    return torch.randn(height + 2, 7, channels, dtype=dtype), weight, torch.randn(channels, dtype=dtype)


def plain(strip: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return F.conv2d(strip.permute(2, 0, 1)[None], weight, bias)[0].permute(1, 2, 0)


@pytest.mark.parametrize("height", [1, 3, 4, 5, 8, 11])
def test_every_height_is_the_plain_convolution(height):
    strip, weight, bias = operands(height, 5, torch.float64)
    found = RowFilter(weight, bias)(strip)
    torch.testing.assert_close(found, plain(strip, weight, bias), rtol=0, atol=1e-13)


def test_rounding_stays_that_of_float32():
    strip, weight, bias = operands(16, 128, torch.float32)
    exact = plain(strip.double(), weight.double(), bias.double())
    error = (RowFilter(weight, bias)(strip) - exact).square().mean().sqrt()
    assert error < 10 * torch.finfo(torch.float32).eps * exact.std()


def test_where_it_serves():
    weight = torch.zeros(128, 128, 3, 3)
    assert saves_products(weight)
    assert not saves_products(weight.bfloat16())
    assert not saves_products(weight[:, :3])
    assert not saves_products(weight.to("meta"))

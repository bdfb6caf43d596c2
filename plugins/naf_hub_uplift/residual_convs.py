"""Convolutions whose input is added to their output, as far as both have channels."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.precision import working_dtype


class ResidualConvs(nn.Module):
    """``depth`` times a 3x3 convolution, BatchNorm and ReLU, then a 1x1 convolution; plus the input.

    The first channels of the input are added to the first of the output; what one has more than the other is left out.
    Names in the state dict are those of the published code.

    Args:
        n_in, n_out: channels of input and output.
        depth: 3x3 convolutions.
    """

    def __init__(self, n_in: int, n_out: int, depth: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (n_in, *[n_out] * (depth - 1)):
            layers += [nn.Conv2d(width, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU()]
        conv = nn.Sequential(*layers, nn.Conv2d(n_out, n_out, 1))
        self.blocks = nn.Sequential(nn.Sequential(OrderedDict(conv=conv)))

    @property
    def layers(self) -> nn.Sequential:
        """All layers in a row."""
        found = self.get_submodule("blocks.0.conv")
        assert isinstance(found, nn.Sequential)
        return found

    def forward(self, maps: Tensor) -> Tensor:
        """(B, n_in, H, W) -> (B, n_out, H, W)."""
        found = maps
        for conv, norm in self._normed():
            found = norm(conv(found)) if norm.training else F.conv2d(found, *_folded(conv, norm), padding=1)
            found = F.relu_(found)
        return _add(self.layers[-1](found), maps)

    def at(self, maps: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        """The output of a block of depth 1, in eval mode, at some rows and columns alone: (B, n_out, R, Q).

        Args:
            maps: (B, n_in, H, W).
            rows, columns: (R,) and (Q,), indices.
        """
        ((conv, norm),) = self._normed()
        windows = F.pad(maps, (1, 1, 1, 1)).index_select(2, _threes(rows)).index_select(3, _threes(columns))
        found = F.relu_(F.conv2d(windows, *_folded(conv, norm), stride=3))
        return _add(self.layers[-1](found), maps.index_select(2, rows).index_select(3, columns))

    def _normed(self) -> Iterator[tuple[nn.Conv2d, nn.BatchNorm2d]]:
        for conv, norm in zip(self.layers[:-1:3], self.layers[1::3], strict=True):
            assert isinstance(conv, nn.Conv2d)
            assert isinstance(norm, nn.BatchNorm2d)
            yield conv, norm


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of a convolution with the BatchNorm behind it, which in eval mode is a scale and a shift."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    dtype, wide = conv.weight.dtype, working_dtype(conv.weight.dtype)
    scale = norm.weight.to(wide) * torch.rsqrt(norm.running_var.to(wide) + norm.eps)
    shift = norm.bias.to(wide) - norm.running_mean.to(wide) * scale
    return (conv.weight * scale[:, None, None, None]).to(dtype), shift.to(dtype)


def _add(found: Tensor, maps: Tensor) -> Tensor:
    shared = min(found.shape[1], maps.shape[1])
    found[:, :shared] += maps[:, :shared]
    return found


def _threes(places: Tensor) -> Tensor:
    """Of a map with a border of one, the three places around each of the map's own."""
    return (places[:, None] + torch.arange(3, device=places.device)).flatten()

"""LiFT: a lightweight feature transform (Suri, Walmer et al., ECCV 2024, arXiv 2403.14625)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import BackboneRecord, ForeignWeights, Normalize, Promises, Upsampler, Want
from naf_hub.interfaces import Shape, Step
from naf_hub.parts.sizes import are_equal, max_pool
from naf_hub.parts.strip_layer import COUNTED, count_doublings, shrink

# Channels read from the image.
WIDTH = 32
KINDS = ("key", "token")


class LiFT(ForeignWeights, Upsampler):
    """Double the features by a small U-Net of image and features, as often as the output needs.

    The network goes x2. For more it is applied again, with the same weights, to its own result and the image enlarged
    twice (bilinear), as in the authors' code. With features of h x w cells and an output of H x W pixels there are k
    steps, k the least number with ``2**k h >= H`` and ``2**k w >= W``; where that is not the wanted size, the result
    is shrunk to it, bilinearly with antialias, which is not published.

    Defaults are the released configuration (1,187,280 parameters for 384 channels). The image is normalised by
    ImageNet's mean and standard deviation, as by the authors for DINO. What is read from it is max-pooled to twice
    the grid, which for cells of 8 and 16 pixels that divide the image is their code, and for others that of the copy
    in LoftUp's repository.

    The released weights were trained on the **keys** of the last block, in an order of their own: channel ``e`` of all
    heads, then channel ``e + 1``. Keys come in naf-hub's order, heads side by side, and the result has that order too.
    Behind a backbone (``naf_hub.load("lift", backbone=...)``, or :meth:`gather`) they are taken by themselves. Called
    with features of your own, it cannot tell keys from the backbone's output, which has the same shape: a plain map is
    taken without a word and gives a map that means nothing. Pass ``backbone.maps(image, Want(kind="key"))[0]``.

    Args:
        channels: feature channels C that it is made for; filled in where a backbone is named.
        kind: ``"key"``, or ``"token"`` for weights that were trained on a backbone's output.
        head_channels: of each head of the backbone whose keys are read; 64 for all models of DINO.
        steps: take so many, whatever the output's size, as a graph with open sizes must.

    Raises:
        ValueError: no channels, or options that do not fit together.
    """

    def __init__(
        self,
        channels: int | None = None,
        kind: str = "key",
        head_channels: int = 64,
        steps: int | None = None,
    ) -> None:
        super().__init__()
        if channels is None:
            raise ValueError(
                "LiFT is made for a number of feature channels: name a backbone, or pass channels="
            )
        if channels < 2:
            raise ValueError(f"channels must be at least 2, got {channels}")
        if kind not in KINDS:
            raise ValueError(f"kind must be one of {', '.join(KINDS)}; got {kind!r}")
        if kind == "key" and (head_channels < 1 or channels % head_channels):
            raise ValueError(
                f"head_channels must divide channels, got head_channels={head_channels}, channels={channels}"
            )
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.channels = channels
        self.steps = steps
        self.promises = Promises(constant=False, open_sizes=steps is not None, closed_sizes=COUNTED)
        self.kind = kind
        self.head_channels = head_channels
        self.wants = (Want(kind=kind),)
        self.normalize = Normalize()
        joined, half = channels + WIDTH, channels // 2
        self.image_convs_1 = nn.Sequential(*_halving(3), *_halving(WIDTH))
        self.image_convs_2 = nn.Sequential(*_halving(WIDTH))
        double_conv = nn.Sequential(*_conv(joined // 2 + WIDTH, half), *_conv(half, half))
        self.up1 = nn.ModuleDict(
            {
                "up": nn.ConvTranspose2d(joined, joined // 2, 2, stride=2),
                "conv_1": nn.ModuleDict({"double_conv": double_conv}),
            }
        )
        self.outc = nn.Conv2d(half, channels, 1)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, kind={self.kind!r}, head_channels={self.head_channels}"

    @classmethod
    def lacks(cls, backbone: BackboneRecord, options: Mapping[str, Any]) -> str:
        """The keys of an attention, unless it is made for tokens."""
        keyless = backbone.network == "stages" and options.get("kind", "key") == "key"
        return f"attention with keys ({Want(kind='key').name})" if keyless else ""

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        heads = features.shape[1] // self.head_channels
        if self.kind == "key":
            features = _swap(features, (heads, self.head_channels))
        output = self.filter(self.normalize(image), features, output_size)
        return _swap(output, (self.head_channels, heads)) if self.kind == "key" else output

    def filter(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        """As :meth:`forward`, for an image that is already normalised and for channels in the order of the weights."""
        grid = (features.shape[-2], features.shape[-1])
        steps = count_doublings(grid, output_size) if self.steps is None else self.steps
        maps, guidance = (given.to(self.outc.weight.dtype) for given in (features, image))
        for step in range(steps):
            if step:
                doubled = (2 * guidance.shape[-2], 2 * guidance.shape[-1])
                guidance = F.interpolate(guidance, doubled, mode="bilinear")
            maps = self.take_step(guidance, maps)
        maps = maps if are_equal(maps.shape[-2:], output_size) else shrink(maps, output_size)
        return maps.to(features.dtype)

    def take_step(self, image: Tensor, features: Tensor) -> Tensor:
        """One step: a normalised image (B, 3, H, W) of any size and (B, C, h, w) -> (B, C, 2 h, 2 w)."""
        doubled = (2 * features.shape[-2], 2 * features.shape[-1])
        fine = self.image_convs_1(image)
        if not are_equal(fine.shape[-2:], doubled):
            fine = max_pool(fine, doubled)
        maps = self.up1["up"](torch.cat((features, self.image_convs_2(fine)), dim=1))
        maps = self.up1.get_submodule("conv_1.double_conv")(torch.cat((maps, fine), dim=1))
        return self.outc(maps)

    def plan_weights(self, shapes: Mapping[str, Shape]) -> Mapping[str, Step] | None:
        """The released files, as they were saved with and without data parallelism."""
        return {name.removeprefix("module."): (name, None) for name in shapes}


def _halving(n_in: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(n_in, WIDTH, 3, stride=2, padding=1), nn.BatchNorm2d(WIDTH), nn.ReLU(inplace=True)


def _conv(n_in: int, n_out: int) -> tuple[nn.Module, ...]:
    return nn.Conv2d(n_in, n_out, 3, padding=1, bias=False), nn.BatchNorm2d(n_out), nn.ReLU(inplace=True)


def _swap(maps: Tensor, sides: tuple[int, int]) -> Tensor:
    """Channels that count two things, with the other of them counted first."""
    return maps.unflatten(1, sides).transpose(1, 2).flatten(1, 2)

"""DySample: learning to upsample by learning to sample (Liu et al., ICCV 2023, arXiv 2308.15085)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Promises
from naf_hub.parts.pieces import Range
from naf_hub.parts.precision import without_autocast, working_dtype
from naf_hub.parts.strip_layer import COUNTED, StripLayer

from .doubling import Doubling

STYLES = ("lp", "pl")


class DySampleLayer(StripLayer):
    """DySample as a layer: ``forward(features)``, (B, C, H, W) -> (B, C, s H, s W).

    A convolution predicts for each output pixel and each group of channels a place to sample the features at. At the
    start all offsets are nearly 0, which is bilinear interpolation. With several groups an output vector mixes places,
    and may leave the convex hull of the feature vectors. Arguments, their defaults and the state dict are those of
    the authors' ``DySample``, except that files before 2024-03-27, whose ``scope`` has a bias, load too; s = 2 of
    C = 384 has 12,320 parameters.

    Args:
        in_channels: C.
        scale: s.
        style: ``"lp"`` predicts the offsets of a cell's s * s pixels at once; ``"pl"`` shuffles the features to
            pixels first, which takes far fewer parameters.
        groups: contiguous groups of channels with places of their own; divides ``in_channels``.
        dyscope: predict the reach of the offsets too ("DySample+").

    Raises:
        ValueError: options that do not fit together; or, when called, features of another number of channels.
    """

    init_pos: Tensor

    def __init__(
        self, in_channels: int, scale: int = 2, style: str = "lp", groups: int = 4, dyscope: bool = False
    ) -> None:
        super().__init__()
        if style not in STYLES:
            raise ValueError(f"style must be one of {', '.join(STYLES)}; got {style!r}")
        if scale < 1:
            raise ValueError(f"scale must be at least 1, got {scale}")
        if groups < 1 or in_channels < 1 or in_channels % groups:
            raise ValueError(
                f"groups must divide in_channels, got groups={groups}, in_channels={in_channels}"
            )
        if style == "pl" and in_channels % scale**2:
            raise ValueError(
                f"style='pl' needs in_channels that scale**2 = {scale**2} divides, got {in_channels}"
            )
        self.channels = in_channels
        self.scale = scale
        self.style = style
        self.groups = groups
        inputs, outputs = in_channels, 2 * groups * scale**2
        if style == "pl":
            inputs, outputs = in_channels // scale**2, 2 * groups
        self.offset = nn.Conv2d(inputs, outputs, 1)
        nn.init.normal_(self.offset.weight, std=0.001)
        assert self.offset.bias is not None
        nn.init.zeros_(self.offset.bias)
        self.scope: nn.Conv2d | None = None
        if dyscope:
            self.scope = nn.Conv2d(inputs, outputs, 1, bias=False)
            nn.init.zeros_(self.scope.weight)
        # The centres of a cell's pixels, seen from its own, in cells: x of all groups, then y.
        at = (torch.arange(scale) * 2 - scale + 1) / (2 * scale)
        centres = torch.stack((at.expand(scale, scale), at[:, None].expand(scale, scale)))
        centres = centres[:, None].expand(2, groups, scale, scale)
        self.register_buffer("init_pos", centres.reshape(1, -1, 1, 1))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        old = state_dict.get(f"{prefix}scope.bias")
        if self.scope is not None and old is not None and self.scope.bias is None:
            self.scope.bias = nn.Parameter(torch.zeros_like(self.scope.weight[:, 0, 0, 0]))
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, style={self.style!r}, groups={self.groups}"

    def forward(self, features: Tensor) -> Tensor:
        return self.make(features)

    def offsets(self, features: Tensor) -> Tensor:
        """Places (B, 2 groups s s, H, W), x then y, in cells from the cell's own centre, of features (B, C, H, W)."""
        seen = features.to(self.offset.weight.dtype)
        if self.style == "pl":
            seen = F.pixel_shuffle(seen, self.scale)
        found = self.offset(seen)
        found = found * 0.25 if self.scope is None else found * self.scope(seen).sigmoid() * 0.5
        if self.style == "pl":
            found = F.pixel_unshuffle(found, self.scale)
        return found.to(working_dtype(features.dtype)) + self.init_pos

    def strip(self, rows: Range, *maps: Tensor) -> Tensor:
        (features,) = maps
        return _sample(
            features, self.offsets(features[:, :, rows[0] : rows[1]]), rows, self.groups, self.scale
        )

    def row_values(self, width: int) -> int:
        return width * self.scale**2 * (2 * self.channels + 12 * self.groups)


@without_autocast
def _sample(features: Tensor, offsets: Tensor, rows: Range, groups: int, scale: int) -> Tensor:
    """Bilinear samples (B, C, s P, s W), the nearest edge beyond the map.

    Args:
        features: (B, C, H, W).
        offsets: (B, 2 groups s s, P, W) of some rows, see :meth:`DySampleLayer.offsets`.
        rows: those rows.
        groups, scale: of the layer.
    """
    height, width = features.shape[-2:]
    # Half precision has no sub-pixel part left at large coordinates.
    dtype = working_dtype(offsets.dtype)
    offsets = offsets.to(dtype).unflatten(1, (2, groups, scale, scale))
    y, x = (torch.arange(*span, dtype=dtype, device=offsets.device) for span in (rows, (0, width)))
    across = (2 * (x + offsets[:, 0]) + 1) / width - 1
    down = (2 * (y[:, None] + offsets[:, 1]) + 1) / height - 1
    places = torch.stack((across, down), dim=-1).permute(0, 1, 4, 2, 5, 3, 6)
    places = places.flatten(4, 5).flatten(2, 3).flatten(0, 1)
    wide = features.to(dtype).unflatten(1, (groups, -1)).flatten(0, 1)
    sampled = F.grid_sample(wide, places, mode="bilinear", padding_mode="border", align_corners=False)
    return sampled.unflatten(0, (-1, groups)).flatten(1, 2)


class DySample(Doubling):
    """DySample as an upsampler to any size; the image is not looked at. See :class:`Doubling`.

    Args:
        channels: feature channels C that it is made for; filled in where a backbone is named.
        style, groups, dyscope: see :class:`DySampleLayer`.
        layers, memory, steps: see :class:`Doubling`.

    Raises:
        ValueError: options that do not fit together.
    """

    guided = False

    def __init__(
        self,
        channels: int | None = None,
        style: str = "lp",
        groups: int = 4,
        dyscope: bool = False,
        layers: int = 1,
        memory: int | str | None = None,
        steps: int | None = None,
    ) -> None:
        super().__init__(
            lambda channels: DySampleLayer(channels, 2, style, groups, dyscope),
            channels,
            layers,
            memory,
            steps,
        )
        self.promises = Promises(range=True, open_sizes=steps is not None, closed_sizes=COUNTED)

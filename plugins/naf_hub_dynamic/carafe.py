"""CARAFE: content-aware reassembly of features (Wang et al., ICCV 2019, arXiv 1905.02188)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Promises
from naf_hub.parts.cell_windows import BORDERS, clip, join_cells, surround, weighted_sums
from naf_hub.parts.pieces import Range
from naf_hub.parts.precision import working_dtype
from naf_hub.parts.strip_layer import COUNTED, StripLayer

from .doubling import Doubling


class CARAFELayer(StripLayer):
    """CARAFE as a layer: ``forward(features)``, (B, C, H, W) -> (B, C, s H, s W).

    Two convolutions predict for each output pixel the weights of the ``up_kernel`` x ``up_kernel`` cells around its
    own. At the start they are nearly equal, which is a box blur of nearest upsampling. Arguments, their defaults and
    the state dict are those of mmcv's ``CARAFEPack``; s = 2 of C = 384 has 82,340 parameters.

    Args:
        channels: C.
        scale_factor: s.
        up_kernel: cells per side of the window, odd.
        up_group: contiguous groups of channels with weights of their own; divides ``channels``.
        encoder_kernel: of the convolution that predicts the weights, odd.
        encoder_dilation: of the same.
        compressed_channels: that it sees.
        border: beyond the map lie ``"zeros"``, as published: weights there are lost, so that maps fade at their edges,
            the more the more often the layer is applied; or ``"replicate"``: the nearest cell, no fading.

    Raises:
        ValueError: options that do not fit together; or, when called, features of another number of channels.
    """

    def __init__(
        self,
        channels: int,
        scale_factor: int = 2,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
        border: str = "zeros",
    ) -> None:
        super().__init__()
        for name, side in (("up_kernel", up_kernel), ("encoder_kernel", encoder_kernel)):
            if side < 1 or side % 2 == 0:
                raise ValueError(f"{name} must be odd and positive, got {side}")
        for name, count in (
            ("channels", channels), ("scale_factor", scale_factor),
            ("encoder_dilation", encoder_dilation), ("compressed_channels", compressed_channels),
        ):  # fmt: skip
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if up_group < 1 or channels % up_group:
            raise ValueError(f"up_group must divide channels, got up_group={up_group}, channels={channels}")
        if border not in BORDERS:
            raise ValueError(f"border must be one of {', '.join(BORDERS)}; got {border!r}")
        self.channels = channels
        self.scale = scale_factor
        self.up_kernel = up_kernel
        self.up_group = up_group
        self.border = border
        self.channel_compressor = nn.Conv2d(channels, compressed_channels, 1)
        self.content_encoder = nn.Conv2d(
            compressed_channels,
            up_group * (up_kernel * scale_factor) ** 2,
            encoder_kernel,
            dilation=encoder_dilation,
        )
        nn.init.xavier_uniform_(self.channel_compressor.weight)
        nn.init.normal_(self.content_encoder.weight, std=0.001)
        for conv in (self.channel_compressor, self.content_encoder):
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def extra_repr(self) -> str:
        return f"scale={self.scale}, up_kernel={self.up_kernel}, border={self.border!r}"

    def forward(self, features: Tensor) -> Tensor:
        return self.make(features)

    def strip(self, rows: Range, *maps: Tensor) -> Tensor:
        (features,) = maps
        height, reach = features.shape[2], self.up_kernel // 2
        first, last = clip(rows, reach, height)
        values = features[:, :, first:last].to(working_dtype(features.dtype)).permute(0, 2, 3, 1)
        values = surround(values, rows, reach, height, self.border)
        return join_cells(weighted_sums(values, self.weights(rows, features)), self.scale)

    def weights(self, rows: Range, features: Tensor) -> Tensor:
        """Weights (B, P, W, groups, s * s, k, k) for some rows of the features; over a window they sum to 1."""
        height, encoder = features.shape[2], self.content_encoder
        reach = encoder.dilation[0] * (encoder.kernel_size[0] // 2)
        first, last = clip(rows, reach, height)
        seen = self.channel_compressor(features[:, :, first:last].to(encoder.weight.dtype))
        seen = surround(seen.permute(0, 2, 3, 1), rows, reach, height).permute(0, 3, 1, 2)
        logits = encoder(seen).to(working_dtype(features.dtype))
        logits = logits.unflatten(1, (self.up_group, self.up_kernel**2, self.scale**2))
        weights = F.softmax(logits, dim=2).permute(0, 4, 5, 1, 3, 2)
        return weights.unflatten(-1, (self.up_kernel, self.up_kernel))

    def row_values(self, width: int) -> int:
        window = self.up_kernel**2
        outputs = self.scale**2 * (3 * self.channels + 4 * self.up_group * window)
        return width * (outputs + 2 * self.channels + 2 * self.channel_compressor.out_channels)


class CARAFE(Doubling):
    """CARAFE as an upsampler to any size; the image is not looked at. See :class:`Doubling` and :class:`CARAFELayer`.

    Args:
        channels: feature channels C that it is made for; filled in where a backbone is named.
        up_kernel, up_group, encoder_kernel, encoder_dilation, compressed_channels, border: of the layers.
        layers, memory, steps: see :class:`Doubling`. FeatUp's baseline is ``up_kernel=3, layers=4``.

    Raises:
        ValueError: options that do not fit together.
    """

    guided = False

    def __init__(
        self,
        channels: int | None = None,
        up_kernel: int = 5,
        up_group: int = 1,
        encoder_kernel: int = 3,
        encoder_dilation: int = 1,
        compressed_channels: int = 64,
        border: str = "zeros",
        layers: int = 1,
        memory: int | str | None = None,
        steps: int | None = None,
    ) -> None:
        def layer(channels: int) -> CARAFELayer:
            return CARAFELayer(
                channels,
                2,
                up_kernel,
                up_group,
                encoder_kernel,
                encoder_dilation,
                compressed_channels,
                border,
            )

        super().__init__(layer, channels, layers, memory, steps)
        # Published borders take a share of the weights with them.
        convex = border != "zeros"
        self.promises = Promises(
            constant=convex, range=convex, open_sizes=steps is not None, closed_sizes=COUNTED
        )

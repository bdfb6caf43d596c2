"""Axial rotary position encoding of guidance features (NAF, arXiv 2511.18452, section 3.3 and appendix A)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn


class RoPE(nn.Module):
    """Rotate channel pairs of a feature map by angles that grow with position.

    Within each head (a contiguous group of channels) channel j pairs with channel j + half a head; the
    first half of the pairs turns with the vertical coordinate, the second with the horizontal one. Both
    coordinates span [-1, 1] over the map, whatever its size.

    In training mode all coordinates are scaled by one factor drawn log-uniformly from [1/r, r] at *every*
    call. (The published code draws one per run, because it caches coordinates until the map's size changes.)

    Args:
        dim: channels, a multiple of ``4 * heads``.
        heads: groups of channels that repeat the same angles.
        base: ratio between the slowest and the fastest period.
        rescale: r above; 1 switches it off.
    """

    periods: Tensor

    def __init__(self, dim: int, heads: int = 4, base: float = 100.0, rescale: float = 2.0) -> None:
        super().__init__()
        if heads < 1 or dim % (4 * heads):
            raise ValueError(f"dim must be a multiple of 4 * rope_heads, got dim={dim}, rope_heads={heads}")
        if base <= 0 or rescale < 1:
            raise ValueError(f"rope_base must be positive and rope_rescale >= 1, got {base} and {rescale}")
        self.heads = heads
        self.rescale = rescale
        count = dim // (4 * heads)
        # Arithmetic on tensors here would import the compiler while weights are checked on the meta device.
        self.register_buffer("periods", torch.tensor([base ** (i / count) for i in range(count)]))

    def _apply(self, fn: Callable, recurse: bool = True) -> RoPE:
        # Half precision would move the periods by up to 0.4 %: they follow devices, not half dtypes.
        before = self.periods
        super()._apply(fn, recurse)
        if self.periods.dtype in (torch.float16, torch.bfloat16):
            self.periods = before.to(self.periods.device)
        return self

    def coordinates(self, size: int) -> Tensor:
        """Centres of ``size`` positions in [-1, 1]: (size,)."""
        positions = torch.arange(size, device=self.periods.device, dtype=self.periods.dtype)
        return 2 * (positions + 0.5) / size - 1

    def angles(self, height: int, width: int, factor: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
        """Angles in radians: (height, periods) down the rows and (width, periods) along the columns."""
        rows, columns = (
            2 * math.pi * (self.coordinates(n) * factor)[:, None] / self.periods for n in (height, width)
        )
        return rows, columns

    def draw_factor(self) -> Tensor | float:
        """Scale of the coordinates for this call: random in training mode, 1 in evaluation mode."""
        if not self.training or self.rescale == 1:
            return 1.0
        spread = math.log(self.rescale)
        draw = torch.rand((), device=self.periods.device, dtype=self.periods.dtype)
        return torch.exp((2 * draw - 1) * spread)

    def forward(self, maps: Tensor, overwrite: bool = False, within: tuple[int, int] | None = None) -> Tensor:
        """Rotate ``maps``.

        Args:
            maps: (B, H, W, C), channels last.
            overwrite: rotate in place where memory layout and dtype allow, for inference on a buffer
                that the caller owns; without gradients.
            within: ``maps`` are the rows from the first number on of a map of as many rows as the second.

        Returns:
            (B, H, W, C) in float32 or better: sums of many rotated products need it.
        """
        batch, height, width, channels = maps.shape
        dtype = torch.promote_types(maps.dtype, torch.float32)
        first, total = within or (0, height)
        rows, columns = (a.to(dtype) for a in self.angles(total, width, self.draw_factor()))
        rows = rows[first : first + height] if within else rows
        cos_y, sin_y, cos_x, sin_x = rows.cos(), rows.sin(), columns.cos(), columns.sin()
        pairs = maps.reshape(batch, height, width, self.heads, 2, channels // self.heads // 2)

        def table(y: Tensor, x: Tensor) -> Tensor:
            count = y.shape[0]
            wide = (y[:, None].expand(count, width, -1), x.expand(count, width, -1))
            return torch.cat(wide, dim=-1)[:, :, None]

        if not overwrite:
            cos, sin = table(cos_y, cos_x), table(sin_y, sin_x)
            a, b = pairs.to(dtype).unbind(-2)
            return torch.stack((a * cos - b * sin, b * cos + a * sin), dim=-2).reshape(maps.shape)
        turned = pairs if maps.dtype == dtype else torch.empty_like(pairs, dtype=dtype)
        # Rows that stay in a processor's cache; an accelerator wants few large launches instead.
        step = max(1, (2**18 if maps.device.type == "cpu" else 2**26) // (width * channels))
        for sample, target in zip(pairs, turned, strict=True):
            for top in range(0, height, step):
                strip = slice(top, top + step)
                cos, sin = table(cos_y[strip], cos_x), table(sin_y[strip], sin_x)
                a, b = sample[strip].to(dtype).unbind(-2)
                first = (a * cos).addcmul_(b, sin, value=-1)
                second = b.mul_(cos).addcmul_(a, sin)
                target[strip].select(-2, 0).copy_(first)
                if turned is not pairs:
                    target[strip].select(-2, 1).copy_(second)
        return turned.reshape(maps.shape)

"""Franca's vision transformer: timm's, with SwiGLU in every size and positions resampled the authors' way."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from timm.layers.mlp import SwiGLUPacked
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

PATCH = 14
# Added to the wanted grid before the scale factor is formed, as in DINOv2's code. It moves the sampling points.
OFFSET = 0.1


def swiglu_width(embed_dim: int) -> int:
    """Hidden channels of the gated feed-forward: two thirds of ``4 * embed_dim``, rounded up to a multiple of 8."""
    return (embed_dim * 4 * 2 // 3 + 7) // 8 * 8


def table_side(entries: int) -> int:
    """M of a position table (1, 1 + M * M, C) with so many entries; 0 if they are no square plus one."""
    side = math.isqrt(max(entries - 1, 0))
    return side if side * side == entries - 1 else 0


def resample_positions(table: Tensor, grid: tuple[int, int]) -> Tensor:
    """The position table at another grid.

    Bicubic without antialiasing, driven by scale factors ``(h + 0.1) / M`` and not by the output size, so that
    the sampling points differ slightly from those of an ordinary resize.

    Args:
        table: (1, 1 + M * M, C), the class token's entry first.
        grid: (h, w).

    Returns:
        (1, 1 + h * w, C), dtype of ``table``; ``table`` itself at its own grid.
    """
    side = table_side(table.shape[1])
    if grid == (side, side):
        return table
    first, patches = table[:, :1], table[:, 1:]
    square = patches.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    square = square.to(torch.promote_types(table.dtype, torch.float32))
    scale = ((grid[0] + OFFSET) / side, (grid[1] + OFFSET) / side)
    square = F.interpolate(square, scale_factor=scale, mode="bicubic", antialias=False)
    return torch.cat([first, square.flatten(2).transpose(1, 2).to(table.dtype)], dim=1)


class FrancaTransformer(VisionTransformer):
    """timm's ``VisionTransformer`` in Franca's configuration; only the position step is replaced."""

    def __init__(self, embed_dim: int, depth: int, num_heads: int, img_size: int) -> None:
        super().__init__(
            img_size=img_size,
            patch_size=PATCH,
            embed_dim=embed_dim,
            depth=depth,
            num_heads=num_heads,
            mlp_ratio=2 * swiglu_width(embed_dim) / embed_dim,
            mlp_layer=SwiGLUPacked,  # pyright: ignore[reportArgumentType]  # a partial, as timm itself passes it
            act_layer=nn.SiLU,
            init_values=1e-5,
            num_classes=0,
            global_pool="token",
            dynamic_img_size=True,  # makes patch_embed give (B, h, w, C), which _pos_embed below relies on
        )

    def _pos_embed(self, x: Tensor) -> Tensor:
        assert self.cls_token is not None
        assert self.pos_embed is not None
        positions = resample_positions(self.pos_embed, (x.shape[1], x.shape[2]))
        tokens = torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x.flatten(1, 2)], dim=1)
        return self.pos_drop(tokens + positions)

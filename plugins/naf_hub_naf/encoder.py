"""The guidance encoder: two branches of pointwise and 3x3 convolutions (NAF, arXiv 2511.18452, section 3.1)."""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.sizes import are_equal, average_pool

from .rope import RoPE

GROUPS = 8


def pad_one(x: Tensor) -> Tensor:
    """Reflect (B, C, H, W) by one pixel on all sides; a side of one pixel is replicated instead."""
    height, width = x.shape[-2:]
    if height > 1 and width > 1:
        return F.pad(x, (1, 1, 1, 1), mode="reflect")
    x = F.pad(x, (0, 0, 1, 1), mode="reflect" if height > 1 else "replicate")
    return F.pad(x, (1, 1, 0, 0), mode="reflect" if width > 1 else "replicate")


class Conv(nn.Conv2d):
    """Convolution with stride 1 and a border reflected without repeating the edge."""

    def forward(self, input: Tensor) -> Tensor:
        if self.kernel_size == (3, 3):
            input = pad_one(input)
        return self._conv_forward(input, self.weight, self.bias)


class Block(nn.Module):
    """GroupNorm, SiLU, convolution, twice; ``residual`` adds the input (the paper's ResNet ablation)."""

    def __init__(self, dim: int, kernel_size: int, residual: bool) -> None:
        super().__init__()
        self.residual = residual
        self.norm1 = nn.GroupNorm(GROUPS, dim)
        self.conv1 = Conv(dim, dim, kernel_size)
        self.norm2 = nn.GroupNorm(GROUPS, dim)
        self.conv2 = Conv(dim, dim, kernel_size)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(F.silu(self.norm1(x)))
        y = self.conv2(F.silu(self.norm2(y)))
        return x + y if self.residual else y


class Branch(nn.Sequential):
    """A convolution from RGB (the stem), then blocks."""

    @classmethod
    def build(cls, dim: int, kernel_size: int, num_blocks: int, residual: bool) -> Branch:
        """A branch of ``dim`` channels and ``num_blocks`` blocks."""
        return cls(Conv(3, dim, kernel_size), *(Block(dim, kernel_size, residual) for _ in range(num_blocks)))

    @property
    def stem(self) -> Conv:
        return cast("Conv", self[0])

    @property
    def blocks(self) -> list[Block]:
        return [block for block in self if isinstance(block, Block)]


def needs_gradient(encoder: nn.Module, image: Tensor) -> bool:
    """Whether a backward pass may come: a frozen model called outside ``no_grad`` needs none."""
    tensors = (image, *encoder.parameters())
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


class GuidanceEncoder(nn.Module):
    """Normalised RGB image to guidance features at image resolution.

    Args:
        dim: output channels, a multiple of 16 (of 8 for ``"pixel"``).
        num_blocks: blocks per branch.
        encoder: ``"dual"``: a pointwise branch and a 3x3 branch of ``dim / 2`` channels each;
            ``"pixel"``: one pointwise branch of ``dim`` channels (paper, table 6).
        residual: add each block's input to its output.
        rope: position encoding that the guidance is to be rotated by, or ``None``; kept here because
            released state dicts hold it here.
    """

    def __init__(
        self,
        dim: int,
        num_blocks: int,
        encoder: str = "dual",
        residual: bool = False,
        rope: RoPE | None = None,
    ) -> None:
        super().__init__()
        if encoder not in ("dual", "pixel"):
            raise ValueError(f"encoder must be 'dual' or 'pixel', got {encoder!r}")
        count = 2 if encoder == "dual" else 1
        if dim < 1 or dim % (count * GROUPS):
            raise ValueError(f"dim must be a multiple of {count * GROUPS} for encoder={encoder!r}, got {dim}")
        if num_blocks < 0:
            raise ValueError(f"num_blocks must not be negative, got {num_blocks}")
        self.width = dim // count
        self.encoder = Branch.build(self.width, 1, num_blocks, residual)
        if encoder == "dual":
            self.sem_encoder = Branch.build(self.width, 3, num_blocks, residual)
        self.rope = rope

    @property
    def branches(self) -> list[Branch]:
        """The branches in the order of their channels: pixel, then context."""
        return [b for b in self.children() if isinstance(b, Branch)]

    def forward(self, image: Tensor, output_size: tuple[int, int]) -> Tensor:
        """Guidance (B, dim, H, W) for a normalised image (B, 3, H_img, W_img), average-pooled to (H, W)."""
        # Measured: convolutions run forward faster channels last, but backward (on CPUs) 1.6 x slower.
        backward = needs_gradient(self, image) and image.device.type == "cpu"
        image = image.contiguous(memory_format=torch.contiguous_format if backward else torch.channels_last)
        maps = torch.cat([branch(image) for branch in self.branches], dim=1)
        return maps if are_equal(maps.shape[-2:], output_size) else average_pool(maps, output_size)

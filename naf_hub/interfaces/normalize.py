"""Normalisation of images, inside whatever needs one."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from ..records import IMAGENET_MEAN, IMAGENET_STD


class Normalize(nn.Module):
    """``(image - mean) / std`` per RGB channel, for images in [0, 1]; keeps the image's dtype.

    Holds no state: the constants never appear in a ``state_dict``.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> None:
        super().__init__()
        self.constants = (tuple(mean), tuple(std))
        self.register_buffer("mean", torch.empty(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.empty(1, 3, 1, 1), persistent=False)
        self.init_non_persistent_buffers()

    def init_non_persistent_buffers(self) -> None:
        """Fill the buffers; called again for a module built on the meta device (timm's name for this)."""
        for buffer, values in zip((self.mean, self.std), self.constants, strict=True):
            buffer.copy_(torch.tensor(values, dtype=torch.float32, device="cpu").view(1, 3, 1, 1))

    def _apply(self, fn: Callable, recurse: bool = True) -> Normalize:
        # Follow devices and doubles, but not half precision: it would shift every pixel by up to 0.4 %.
        super()._apply(fn, recurse)
        if self.mean.dtype in (torch.float16, torch.bfloat16):
            self.mean, self.std = self.mean.float(), self.std.float()
            self.init_non_persistent_buffers()
        return self

    def forward(self, image: Tensor) -> Tensor:
        return (image - self.mean.to(image.dtype)) / self.std.to(image.dtype)

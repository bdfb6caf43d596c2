"""Restorers that predict the noise: the image minus what a convolutional network finds in it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Restorer
from naf_hub.parts.budget import parse_bytes
from naf_hub.parts.pieces import split

MEMORY = 2**29  # bytes


def keeps_nothing(network: nn.Module, image: Tensor) -> bool:
    """Whether a call is inference, which may cut its work: no training, no gradient, no graph being traced."""
    if torch.compiler.is_compiling() or network.training:
        return False
    tensors = (image, *network.parameters())
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))


def pad_to_multiple(image: Tensor, multiple: int) -> Tensor:
    """Repeat the last row and column of (B, C, H, W) until both sides are multiples."""
    height, width = image.shape[-2:]
    if height % multiple == 0 and width % multiple == 0:
        return image
    return F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")


class NoisePredictor(Restorer):
    """``image - noise(image)``, in inference one sample and one strip of rows at a time where memory is short.

    A strip brings along the rows that its pixels depend on, so cutting changes nothing but rounding.

    Args:
        width: channels of the network's maps.
        reach: rows above and below that a row of the result depends on.
        multiple: what both sides of the image must be a multiple of; other images are padded by their border.
        memory: bytes that inference may take beside image and result, as far as a few rows fit.
    """

    # Maps of the image's size that are alive at a time, in multiples of ``width`` channels.
    alive = 3

    def __init__(self, width: int, reach: int, multiple: int, memory: int | str) -> None:
        super().__init__()
        self.width, self.reach, self.multiple = width, reach, multiple
        self.memory = parse_bytes(memory)

    def noise(self, image: Tensor) -> Tensor:
        """What the network finds in (B, 3, H, W); sides are multiples of ``multiple``."""
        raise NotImplementedError(f"{type(self).__name__} must implement noise(image)")

    def restore(self, image: Tensor) -> Tensor:
        ready = pad_to_multiple(image.to(next(self.parameters()).dtype), self.multiple)
        noise = self._noise_in_strips(ready) if keeps_nothing(self, image) else self.noise(ready)
        return image - noise[..., : image.shape[-2], : image.shape[-1]].to(image.dtype)

    def _noise_in_strips(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        rows = self.memory // (self.alive * self.width * width * image.element_size())
        if rows >= len(image) * height:
            return self.noise(image)
        step = height if rows >= height else max(self.reach, rows - 2 * self.reach)
        noise = torch.empty_like(image)
        for sample in range(len(image)):
            for start, stop in split(height, -(-step // self.multiple) * self.multiple):
                first, last = max(0, start - self.reach), min(height, stop + self.reach)
                strip = self.noise(image[sample : sample + 1, :, first:last])
                noise[sample, :, start:stop] = strip[0, :, start - first : stop - first]
        return noise

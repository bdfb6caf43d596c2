"""A backbone and an upsampler as one module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .checks import tell_once
from .images import as_batch
from .interfaces import Upsampler


class FeaturePipeline(nn.Module):
    """Per-pixel features of images: ``naf_hub.load("naf", backbone="pico")``.

    Attributes:
        backbone: image -> (B, C, h, w).
        upsampler: (image, features, size) -> (B, C, H, W).
    """

    def __init__(self, backbone: nn.Module, upsampler: Upsampler) -> None:
        super().__init__()
        self.backbone = backbone
        self.upsampler = upsampler

    def forward(
        self,
        image: Any,
        output_size: int | tuple[int, int] | None = None,
        output: Tensor | None = None,
    ) -> Tensor:
        """Upsampled features of ``image``.

        Args:
            image: (B, 3, H, W) or (3, H, W) RGB tensor in [0, 1], a Pillow image, or the path of a file.
            output_size: an int (square) or (H, W); default the image's size.
            output: a buffer (B, C, H, W) to write to, as of :meth:`naf_hub.Upsampler.forward`.

        Returns:
            (B, C, H, W); with ``output``, that buffer.

        Raises:
            TypeError, ValueError, ImageError: the image is not one; each says why.
        """
        batch = self._batch(image)
        # Both halves check the image; what is odd about it is told once.
        with nullcontext() if torch.compiler.is_compiling() else tell_once():
            return self.upsampler(batch, self.upsampler.gather(batch, self.backbone), output_size, output)

    def stream(
        self,
        image: Any,
        output_size: int | tuple[int, int] | None = None,
        rows: tuple[int, int] | None = None,
    ) -> Iterator[Tensor]:
        """What :meth:`forward` returns in strips of rows, see :meth:`naf_hub.Upsampler.stream`."""
        batch = self._batch(image)
        with tell_once():
            return self.upsampler.stream(
                batch, self.upsampler.gather(batch, self.backbone), output_size, rows
            )

    def features_at(
        self, image: Any, points: Any, output_size: int | tuple[int, int] | None = None
    ) -> Tensor:
        """What :meth:`forward` returns at chosen pixels, (B, C, N); see :meth:`naf_hub.Upsampler.features_at`."""
        batch = self._batch(image)
        with tell_once():
            return self.upsampler.features_at(
                batch, self.upsampler.gather(batch, self.backbone), points, output_size
            )

    def low_res(self, image: Any) -> Tensor:
        """The (B, C, h, w) features of ``image`` before upsampling, in the space of the upsampled ones."""
        batch = self._batch(image)
        with nullcontext() if torch.compiler.is_compiling() else tell_once():
            return self.upsampler.reference(self.upsampler.gather(batch, self.backbone))

    def _batch(self, image: Any) -> Tensor:
        batch = as_batch(image)
        for tensor in (*self.parameters(), *self.buffers()):
            return batch.to(tensor.device)
        return batch

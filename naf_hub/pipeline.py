"""A backbone and an upsampler as one module."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

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

    def forward(self, image: Any, output_size: int | tuple[int, int] | None = None) -> Tensor:
        """Upsampled features of ``image``.

        Args:
            image: (B, 3, H, W) or (3, H, W) RGB tensor in [0, 1], a Pillow image, or the path of a file.
            output_size: an int (square) or (H, W); default the image's size.

        Returns:
            (B, C, H, W).

        Raises:
            TypeError, ValueError, ImageError: the image is not one; each says why.
        """
        batch = self._batch(image)
        return self.upsampler(batch, self.backbone(batch), output_size)

    def low_res(self, image: Any) -> Tensor:
        """The backbone's own (B, C, h, w) features of ``image``, before upsampling."""
        return self.backbone(self._batch(image))

    def _batch(self, image: Any) -> Tensor:
        batch = as_batch(image)
        for tensor in (*self.parameters(), *self.buffers()):
            return batch.to(tensor.device)
        return batch

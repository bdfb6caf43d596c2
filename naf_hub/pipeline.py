"""A backbone and an upsampler as one module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from .checks import tell_once
from .image_sizes import ImageSize, fit_size, resized
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
        *,
        shorter_side: int | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Upsampled features of ``image``.

        Args:
            image: (B, 3, H, W) or (3, H, W) RGB tensor in [0, 1], a Pillow image, an array (H, W, 3), the path of a
                file, or a list of these; see :func:`naf_hub.images.as_batch`.
            output_size: an int (square) or (H, W); default the image's size, once it was resized.
            shorter_side: bring the image to so many pixels on its shorter side first, as ``naf-hub upsample --size N``
                does: the other follows the aspect ratio, and both are rounded to the backbone's patch.
            image_size: bring it to (H, W) exactly first, as ``--size HxW`` does.
            output: a buffer (B, C, H, W) to write to, as of :meth:`naf_hub.Upsampler.forward`.

        Returns:
            (B, C, H, W); with ``output``, that buffer.

        Raises:
            TypeError, ValueError, ImageError: the image is not one; each says why.
        """
        batch = self._batch(image, shorter_side, image_size)
        # Both halves check the image; what is odd about it is told once.
        with nullcontext() if torch.compiler.is_compiling() else tell_once():
            return self.upsampler(batch, self.upsampler.gather(batch, self.backbone), output_size, output)

    def stream(
        self,
        image: Any,
        output_size: int | tuple[int, int] | None = None,
        rows: tuple[int, int] | None = None,
        *,
        shorter_side: int | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Iterator[Tensor]:
        """What :meth:`forward` returns in strips of rows, see :meth:`naf_hub.Upsampler.stream`."""
        batch = self._batch(image, shorter_side, image_size)
        with tell_once():
            return self.upsampler.stream(
                batch, self.upsampler.gather(batch, self.backbone), output_size, rows
            )

    def features_at(
        self,
        image: Any,
        points: Any,
        output_size: int | tuple[int, int] | None = None,
        *,
        shorter_side: int | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """What :meth:`forward` returns at chosen pixels, (B, C, N); see :meth:`naf_hub.Upsampler.features_at`."""
        batch = self._batch(image, shorter_side, image_size)
        with tell_once():
            return self.upsampler.features_at(
                batch, self.upsampler.gather(batch, self.backbone), points, output_size
            )

    def low_res(
        self, image: Any, *, shorter_side: int | None = None, image_size: tuple[int, int] | None = None
    ) -> Tensor:
        """The (B, C, h, w) features of ``image`` before upsampling, in the space of the upsampled ones."""
        batch = self._batch(image, shorter_side, image_size)
        with nullcontext() if torch.compiler.is_compiling() else tell_once():
            return self.upsampler.reference(self.upsampler.gather(batch, self.backbone))

    def working_size(self, height: int, width: int, size: ImageSize) -> tuple[int, int]:
        """(H, W) that an image is brought to, see :func:`~naf_hub.image_sizes.fit_size`; whole patches for N."""
        return fit_size(height, width, size, getattr(self.backbone, "patch_size", 1))

    def _batch(self, image: Any, shorter_side: int | None, image_size: tuple[int, int] | None) -> Tensor:
        if shorter_side is not None and image_size is not None:
            raise ValueError("give shorter_side or image_size, not both")
        size = image_size if shorter_side is None else shorter_side
        if size is not None:
            self._check_size(size)
            images = image if isinstance(image, (list, tuple)) else [image]
            image = [self._resized(as_batch(one), size) for one in images]
        batch = as_batch(image)
        for tensor in (*self.parameters(), *self.buffers()):
            return batch.to(tensor.device)
        return batch

    def _resized(self, batch: Tensor, size: int | tuple[int, int]) -> Tensor:
        return resized(batch, self.working_size(batch.shape[-2], batch.shape[-1], size))

    @staticmethod
    def _check_size(size: Any) -> None:
        sides = size if isinstance(size, tuple) and len(size) == 2 else [size]
        if not all(isinstance(side, int) and side > 0 for side in sides):
            raise ValueError(f"shorter_side is a number of pixels, image_size is (H, W); got {size!r}")

"""The interface of backbones: images to dense features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..checks import check_image_given_to, warn_caller
from ..errors import MapError
from ..images import as_batch_for
from ..records import IMAGENET_MEAN, IMAGENET_STD, Origin
from ..wants import Want
from .normalize import Normalize


class Backbone(nn.Module):
    """A frozen vision backbone: ``forward(image) -> (B, C, h, w)`` dense features.

    A subclass implements :meth:`extract`, and :meth:`extract_maps` if it has more than its last map to give. The
    base class checks the image, resizes it where its sides are no multiples of the patch, and applies the
    backbone's own normalisation.

    Args:
        embed_dim: channels C of the features.
        patch_size: image pixels per feature cell.
        mean: of RGB values in [0, 1], per channel, subtracted first.
        std: what is then divided by.

    Attributes:
        origin: record and weights, where it was loaded by name.
    """

    origin: Origin | None = None

    def __init__(
        self,
        embed_dim: int,
        patch_size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.embed_dim = embed_dim
        self.patch_size = patch_size
        self.normalize = Normalize(mean, std)

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Feature grid (h, w) for an image of ``height`` x ``width`` pixels."""
        return (max(1, round(height / self.patch_size)), max(1, round(width / self.patch_size)))

    def forward(self, image: Any) -> Tensor:
        """Dense features of ``image``.

        Args:
            image: (B, 3, H, W), RGB in [0, 1], any H and W; or whatever
                :func:`naf_hub.images.as_batch` takes. Where a side is no multiple of ``patch_size`` the image is
                resized (bilinear, antialiased) to the nearest multiple, with a warning that names the sizes.

        Returns:
            (B, embed_dim, h, w) with ``h, w = grid(H, W)``, in the dtype of ``image`` whatever the weights'.

        Raises:
            TypeError, ValueError: see :func:`naf_hub.checks.check_image`.
        """
        return self.maps(image)[0]

    def maps(self, image: Any, *wants: Want) -> tuple[Tensor, ...]:
        """The maps that are wanted of ``image``, in one pass of the network.

        Args:
            image: as for :meth:`forward`.
            wants: which maps; none means the one that :meth:`forward` gives.

        Returns:
            A (B, C, h, w) map for each want, in the dtype of ``image``; a class token is a map of one cell,
            (B, C, 1, 1).

        Raises:
            MapError: this backbone has no such map; says what it has.
            TypeError, ValueError: as for :meth:`forward`.
        """
        held = (*self.parameters(), *self.buffers())
        image = as_batch_for(image, held[0] if held else None)
        check_image_given_to(self, image)
        # Weights in half precision are common for large models; what callers see stays theirs.
        learned = tuple(self.parameters())
        dtype = learned[0].dtype if learned else image.dtype
        ready = self.normalize(self.fit(image)).to(dtype)
        return tuple(found.to(image.dtype) for found in self.extract_maps(ready, wants or (Want(),)))

    def fit(self, image: Tensor) -> Tensor:
        """A checked image (B, 3, H, W) at a size the network takes; a resize is told in a warning."""
        height, width = image.shape[-2:]
        h, w = self.grid(height, width)
        size = (h * self.patch_size, w * self.patch_size)
        if size == (height, width):
            return image
        warn_caller(
            f"image resized from {height}x{width} to {size[0]}x{size[1]}: "
            f"{type(self).__name__} needs multiples of {self.patch_size} pixels"
        )
        return F.interpolate(image, size, mode="bilinear", antialias=True)

    def extract(self, image: Tensor) -> Tensor:
        """Features (B, embed_dim, h, w) of a checked, normalised image whose sides fit the patch."""
        raise NotImplementedError(f"{type(self).__name__} must implement extract(image)")

    def extract_maps(self, image: Tensor, wants: Sequence[Want]) -> tuple[Tensor, ...]:
        """The wanted maps of an image as :meth:`extract` gets it; here only what :meth:`extract` gives.

        Raises:
            MapError: for a map that this backbone does not have.
        """
        for want in wants:
            if want != Want():
                raise MapError(f"{type(self).__name__} has no {want.name}: it gives its last map only")
        return (self.extract(image),) * len(wants)

"""The interface of restorers: a degraded image to the restored one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from ..checks import check_image_given_to, check_output
from ..images import as_batch_for
from ..records import Origin


class Restorer(nn.Module):
    """Restores images: ``forward(image) -> restored``, of the same shape.

    A subclass implements :meth:`restore`; the base class checks what goes in and what comes out. A network that needs
    sides of certain multiples pads inside.

    Attributes:
        origin: record and weights, where it was loaded by name.
    """

    origin: Origin | None = None

    def forward(self, image: Any) -> Tensor:
        """The restored image.

        Args:
            image: (B, 3, H, W), RGB whose clean values lie in [0, 1], while noise may leave it; any H and W; or
                whatever :func:`naf_hub.images.as_batch` takes.

        Returns:
            (B, 3, H, W), dtype and device of the image. Values are the method's own and may leave [0, 1] slightly.

        Raises:
            TypeError, ValueError: see :func:`naf_hub.checks.check_image`.
        """
        held = (*self.parameters(), *self.buffers())
        image = as_batch_for(image, held[0] if held else None)
        check_image_given_to(self, image, any_range=True)
        size = (image.shape[-2], image.shape[-1])
        return check_output(self.restore(image), image, image, size, type(self).__name__)

    def restore(self, image: Tensor) -> Tensor:
        """The method itself, on a checked image (B, 3, H, W)."""
        raise NotImplementedError(f"{type(self).__name__} must implement restore(image)")

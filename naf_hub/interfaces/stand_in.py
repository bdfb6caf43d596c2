"""An upsampler in the place of another one, so that only what makes it differ has to be written."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .upsampler import Features, Upsampler


class StandIn(Upsampler):
    """Gathers what another upsampler gathers and answers in its space: what controls of a measurement are made of.

    A subclass implements ``upsample``.

    Args:
        like: the upsampler in whose place it stands; part of this module, so that it moves between devices with it.
    """

    def __init__(self, like: Upsampler) -> None:
        super().__init__()
        self.like = like
        self.wants = like.wants
        self.promises = like.promises
        self.channels = like.channels
        self.origin = like.origin
        self.takes_any_range = like.takes_any_range

    def gather(self, image: Tensor, backbone: nn.Module) -> Features:
        """As the other gathers."""
        return self.like.gather(image, backbone)

    @property
    def gather_key(self) -> tuple[Any, ...]:
        """As the other's: they share features."""
        return self.like.gather_key

    def reference(self, features: Features) -> Tensor:
        """As the other's."""
        return self.like.reference(features)

"""Upsamplers made of a layer that doubles a map, applied until the wanted size is reached."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from naf_hub import Upsampler
from naf_hub.parts.budget import parse_bytes, working_memory
from naf_hub.parts.strip_layer import StripLayer, count_doublings, shrink


class Doubling(Upsampler):
    """Apply a x2 layer as often as the output needs, then shrink to its size.

    With features of h x w cells and an output of H x W pixels the map is doubled k times, k the least number with
    ``2**k h >= H`` and ``2**k w >= W`` (none where the output is no larger than the grid); where that is not the
    wanted size, it is shrunk bilinearly with antialias. Neither is part of the layers' papers.

    Args:
        layer: makes a layer for C channels.
        channels: feature channels C that it is made for; filled in where a backbone is named.
        steps: double so often, whatever the output's size, and enlarge a smaller result bilinearly. That is what an
            exported graph with open sizes needs, which cannot count; 4 suits an output of 16 pixels a cell.
        layers: how many layers with weights of their own; a step past the last uses the last again. 1 shares one
            layer among all steps; 4 is the wiring of FeatUp's baselines (arXiv 2403.10516), which always goes x16.
        memory: working memory to keep to beside the maps, in bytes or as text such as ``"512MiB"``; by default 64 MiB
            on CPUs and 2 GiB elsewhere. Results do not depend on it beyond rounding.

    Raises:
        ValueError: no channels, or options that make no sense.
    """

    def __init__(
        self,
        layer: Callable[[int], StripLayer],
        channels: int | None,
        layers: int,
        memory: int | str | None,
        steps: int | None,
    ) -> None:
        super().__init__()
        if channels is None:
            raise ValueError(
                f"{type(self).__name__} is made for a number of feature channels: name a backbone, or pass channels="
            )
        if layers < 1:
            raise ValueError(f"layers must be at least 1, got {layers}")
        if steps is not None and steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.channels = channels
        self.steps = steps
        self.layers = layers
        self.memory = None if memory is None else parse_bytes(memory)
        for number in range(1, layers + 1):
            self.add_module(f"up{number}", layer(channels))

    def layer(self, step: int) -> StripLayer:
        """The layer of a step, counted from 1."""
        found = self.get_submodule(f"up{min(step, self.layers)}")
        assert isinstance(found, StripLayer)
        return found

    def maps(self, image: Tensor, features: Tensor) -> tuple[Tensor, ...]:
        """What a step gives its layer; by default the features alone."""
        return (features,)

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return self.filter(image, features, output_size)

    def filter(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        """As :meth:`forward`, for an image that is already normalised where the method looks at it."""
        grid = (features.shape[-2], features.shape[-1])
        steps = count_doublings(grid, output_size) if self.steps is None else self.steps
        if not steps:
            return features if grid == output_size else shrink(features, output_size)
        memory = working_memory(self.memory, features.device.type)
        for step in range(1, steps + 1):
            size = output_size if step == steps else None
            features = self.layer(step).make(*self.maps(image, features), size=size, memory=memory)
        return features

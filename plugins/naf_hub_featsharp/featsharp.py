"""FeatSharp: your vision model features, sharper (Ranzinger et al., ICML 2025, arXiv 2502.16025)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import ForeignWeights, Normalize, Promises, Upsampler, WeightsError
from naf_hub.interfaces import Shape, Step
from naf_hub.parts.budget import parse_bytes, working_memory
from naf_hub.parts.precision import autocast_off, working_dtype
from naf_hub.records import IMAGENET_MEAN, IMAGENET_STD

from .fusion_level import INPUTS, FusionLevel
from .training_checkpoint import AROUND, collapsed, own_name


class FeatSharp(ForeignWeights, Upsampler):
    """Features of the whole image, sharpened by those that the backbone gives of its tiles.

    ``gather`` squashes the image to a square, runs the backbone on it at ``resolution`` and on ``factor`` x
    ``factor`` tiles of the same size, cut from it enlarged: 1 + factor^2 passes an image. A transformer block fuses
    the tiles with the upsampled features. The result has ``factor`` positions a cell and axis; other sizes are
    resized from it (bilinear). Defaults are the configuration that the authors name ``no-ln.inputs-jafar-tiles``.

    Args:
        channels: feature channels C that it is made for; filled in where a backbone is named.
        factor: positions a cell and axis.
        resolution: pixels a side that the backbone sees, of the whole image and of each tile.
        inputs: what is fused, out of ``jafar``, ``tiles``, ``bilinear`` and ``rgb``; the result is added to the first.
        layer_norm: normalise before attention and SwiGLU.
        progressive: a level for each prime factor of ``factor`` instead of one.
        window: side of the square of positions that attention sees.
        mean, std: of the image's normalisation, those of the backbone.
        memory: working memory to keep to in attention and SwiGLU, in bytes or as text such as ``"512MiB"``; by
            default 64 MiB on CPUs and 2 GiB elsewhere. The inputs side by side and their projections, about four
            times as much, come on top. Results do not depend on it beyond rounding.

    Raises:
        ValueError: options that do not fit together; or, when called, features without tiles.
    """

    promises = Promises(
        constant=False,
        closed_sizes="it needs tiles of a fixed size (resolution=), so that its grid is fixed, too",
    )

    def __init__(
        self,
        channels: int | None = None,
        factor: int = 2,
        resolution: int = 448,
        inputs: Sequence[str] = ("jafar", "tiles"),
        layer_norm: bool = False,
        progressive: bool = False,
        window: int = 7,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        memory: int | str | None = None,
    ) -> None:
        super().__init__()
        if channels is None:
            raise ValueError(
                "FeatSharp is made for a number of feature channels: name a backbone, or pass channels="
            )
        if channels < 1 or channels % 8:
            raise ValueError(f"channels must be a positive multiple of 8, got {channels}")
        for name, count in (("factor", factor), ("resolution", resolution), ("window", window)):
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        if not inputs or len(set(inputs)) < len(inputs) or set(inputs) - set(INPUTS) or inputs[0] == "rgb":
            raise ValueError(
                f"inputs must be some of {', '.join(INPUTS)}, each once and rgb not first; got {', '.join(inputs)}"
            )
        self.channels, self.factor, self.resolution = channels, factor, resolution
        self.memory = None if memory is None else parse_bytes(memory)
        self.normalize = Normalize(mean, std)
        self.factors = prime_factors(factor) if progressive else [factor]
        self.ups = nn.ModuleList(FusionLevel(channels, f, inputs, layer_norm, window) for f in self.factors)

    def extra_repr(self) -> str:
        return f"resolution={self.resolution}, factors={self.factors}"

    def gather(self, image: Tensor, backbone: nn.Module) -> dict[str, Tensor]:
        """Features of the whole image and of its tiles.

        Returns:
            ``token[-1]``: (B, C, g, g). ``tiles N``: (B, C, N * g, N * g), of N x N tiles, for each level.
        """
        maps, count = {self.wants[0].name: self._seen(image, 1, backbone)}, 1
        for factor in self.factors:
            count *= factor
            maps[f"tiles {count}"] = self._seen(image, count, backbone)
        return maps

    def _seen(self, image: Tensor, count: int, backbone: nn.Module) -> Tensor:
        """Features (B, C, count * g, count * g) of count x count tiles, one row of tiles a pass."""
        size = count * self.resolution
        image = F.interpolate(image, (size, size), mode="bilinear")
        rows = []
        for strip in image.split(self.resolution, dim=2):
            found = super().gather(torch.cat(strip.split(self.resolution, dim=3)), backbone)
            assert isinstance(found, Tensor)
            rows.append(torch.cat(found.chunk(count), dim=3))
        return torch.cat(rows, dim=2)

    def upsample(self, image: Tensor, features: Any, output_size: tuple[int, int]) -> Tensor:
        if not isinstance(features, Mapping):
            raise ValueError(
                "FeatSharp needs the features of tiles, too; take them from gather(image, backbone)"
            )
        whole = features[self.wants[0].name]
        dtype = working_dtype(whole.dtype)
        with autocast_off(image.device):
            guidance = image.to(dtype)
            if image.shape[-2] != image.shape[-1]:
                side = self.factor * self.resolution
                guidance = F.interpolate(guidance, (side, side), mode="bilinear")
            maps = self.filter(self.normalize(guidance), {k: v.to(dtype) for k, v in features.items()})
            if maps.shape[-2:] != output_size:
                maps = F.interpolate(maps, output_size, mode="bilinear")
        return maps.to(whole.dtype)

    def filter(self, image: Tensor, features: Mapping[str, Tensor]) -> Tensor:
        """Features (B, C, factor * g, factor * g), for a square image that is already normalised."""
        maps, count = features[self.wants[0].name], 1
        memory = working_memory(self.memory, image.device.type)
        for level, factor in zip(self.ups, self.factors, strict=True):
            count *= factor
            maps = level(image, maps, features[f"tiles {count}"], memory)
        return maps

    def plan_weights(self, shapes: Mapping[str, Shape]) -> Mapping[str, Step] | None:
        """The authors' names, bare or of a training checkpoint; weights by spectral norm need their values."""
        if any(".parametrizations." in name for name in shapes):
            return None
        return {own: (name, None) for own, name in self._own_names(shapes).items()}

    def convert_weights(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        plain = collapsed(state)
        return {own: plain[name] for own, name in self._own_names(plain).items()}

    def _own_names(self, names: Mapping[str, Any]) -> dict[str, str]:
        """The names in a file, by this model's own."""
        if around := [name for name in names if name.removeprefix("module.").startswith(AROUND)]:
            raise WeightsError(
                f"these were trained behind a normalisation of the features that naf-hub does not have ({around[0]}); "
                "only checkpoints of the upsampler alone load"
            )
        found = {}
        for name in names:
            own = own_name(name)
            level, part, inner = own.partition(".jafar.")
            if part:
                jafar = self.get_submodule(f"{level}.jafar")
                assert isinstance(jafar, ForeignWeights)
                renamed = jafar.plan_weights({inner: ()})
                assert renamed is not None
                (inner,) = renamed
            found[f"{level}{part}{inner}"] = name
        return found


def prime_factors(number: int) -> list[int]:
    """In ascending order; of 1, itself."""
    found, divisor = [], 2
    while number > 1:
        while number % divisor == 0:
            found.append(divisor)
            number //= divisor
        divisor += 1
    return found or [1]

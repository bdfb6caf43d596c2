"""UPLiFT: pixel-dense features by local attenders, doubling by doubling (CVPR 2026, arXiv 2601.17950)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Normalize, Promises, Upsampler
from naf_hub.parts.budget import parse_bytes, working_memory
from naf_hub.parts.sizes import nearest, nearest_places
from naf_hub.parts.strip_layer import COUNTED, count_doublings, shrink

from .local_attender import LocalAttender
from .residual_convs import ResidualConvs

# The side of a cell in pixels that the steps end at: images of models with cells of 14 are enlarged to it.
CELL, ENLARGED = 16, 14


class UPLiFT(Upsampler):
    """Double the features as often as the output needs; every pixel of a step is a mean of cells near it.

    An encoder reads the image once, in its own size. A step joins what it read to the features, makes of both a guide
    of twice the size, and weights for each of its pixels the 17 cells around its own (:class:`LocalAttender`); all
    steps share their weights. With features of h x w cells and an output of H x W pixels there are k steps, k the
    least number with ``2**k h >= H`` and ``2**k w >= W`` (none where the output is no larger than the grid); where
    that is not the wanted size, the result is resized to it, bilinearly with antialias, as the authors do. Outputs are
    convex combinations of the features.

    Defaults are the released configuration (789,521 parameters for 384 channels) and names are those of the released
    files. The image is normalised by ImageNet's mean and standard deviation, as by the authors for all DINO models.
    Of the encoder's last layer, which steps read at the cells of their input alone, only those are computed (in
    training all are, for the statistics of its BatchNorm).

    Args:
        channels: feature channels C that it is made for; filled in where a backbone is named.
        patch_size: of the backbone. The one published for 14 enlarges the image by 16/14 first, and so does this; all
            other numbers change nothing.
        encoder_dims: channels of the encoder's layers.
        dim: channels of the guide.
        neighbors: 5, 9, 13, 17 or 25 cells that a pixel sees.
        steps: take so many, whatever the output's size, as a graph with open sizes must.
        memory: working memory to keep to in the steps' means, in bytes or as text such as ``"512MiB"``; by default
            64 MiB on CPUs and 2 GiB elsewhere. The encoder's maps and the guides, a few of ``encoder_dims`` and ``dim``
            channels in the size of image and output, come on top. Results do not depend on it beyond rounding.

    Raises:
        ValueError: no channels, or options that make no sense.
    """

    def __init__(
        self,
        channels: int | None = None,
        patch_size: int = 16,
        encoder_dims: Sequence[int] = (16, 32, 64, 128, 128),
        dim: int = 64,
        neighbors: int = 17,
        steps: int | None = None,
        memory: int | str | None = None,
    ) -> None:
        super().__init__()
        if channels is None:
            raise ValueError(
                "UPLiFT is made for a number of feature channels: name a backbone, or pass channels="
            )
        if len(encoder_dims) < 2:
            raise ValueError(f"encoder_dims must be two numbers at least, got {encoder_dims!r}")
        for name, count in (
            ("channels", channels), ("patch_size", patch_size), ("dim", dim), ("encoder_dims", min(encoder_dims)),
            ("steps", 1 if steps is None else steps),
        ):  # fmt: skip
            if count < 1:
                raise ValueError(f"{name} must be at least 1, got {count}")
        self.channels = channels
        self.patch_size = patch_size
        self.steps = steps
        self.promises = Promises(range=True, open_sizes=steps is not None, closed_sizes=COUNTED)
        self.memory = None if memory is None else parse_bytes(memory)
        self.normalize = Normalize()
        widths = (3, *encoder_dims)
        self.encoder = nn.Sequential()
        for number, (n_in, n_out) in enumerate(itertools.pairwise(widths)):
            self.encoder.add_module(f"block_{number}", ResidualConvs(n_in, n_out, 1))
        self.decoder = Decoder(channels, encoder_dims[-2], encoder_dims[-1], dim)
        self.attender = LocalAttender(dim, channels, neighbors)

    def extra_repr(self) -> str:
        return f"channels={self.channels}, patch_size={self.patch_size}"

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return self.filter(self.normalize(image), features, output_size)

    def filter(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        """As :meth:`forward`, for an image that is already normalised."""
        grid = (features.shape[-2], features.shape[-1])
        steps = count_doublings(grid, output_size) if self.steps is None else self.steps
        if not steps:
            return features if grid == output_size else shrink(features, output_size)
        fine, coarse = self.encode(image, (grid[0] * 2 ** (steps - 1), grid[1] * 2 ** (steps - 1)))
        memory = working_memory(self.memory, features.device.type)
        for step in range(1, steps + 1):
            guide = self.decoder(features, fine, coarse)
            size = output_size if step == steps else None
            features = self.attender.make(features, guide, size=size, memory=memory)
        return features

    def encode(self, image: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What is read from a normalised image.

        Args:
            image: (B, 3, H, W).
            grid: (h, w) of the last step's input.

        Returns:
            The last map but one in the image's size; and the last map at the pixels of ``grid`` (nearest), which
            hold those of all coarser grids.
        """
        if self.patch_size == ENLARGED:
            size = tuple(CELL * side // ENLARGED for side in image.shape[-2:])
            image = F.interpolate(image, size, mode="bilinear")
        *layers, last = self.encoder
        maps = image.to(self.attender.conv1.weight.dtype)
        for layer in layers:
            maps = layer(maps)
        assert isinstance(last, ResidualConvs)
        if self.training:
            return maps, last(maps)
        rows, columns = (
            nearest_places(n_in, n_out, maps.device)
            for n_in, n_out in zip(maps.shape[-2:], grid, strict=True)
        )
        return maps, last.at(maps, rows, columns)


class Decoder(nn.Module):
    """Features and what was read from the image to a guide of twice the features' size.

    Args:
        channels: of the features.
        fine, coarse: of the encoder's last maps.
        dim: of the guide.
    """

    def __init__(self, channels: int, fine: int, coarse: int, dim: int) -> None:
        super().__init__()
        self.block_0 = ResidualConvs(channels + coarse, dim, 2)
        self.up_1 = nn.ModuleDict({"up": nn.ConvTranspose2d(dim, dim, 2, stride=2)})
        self.block_1 = ResidualConvs(dim + fine, dim, 2)

    def forward(self, features: Tensor, fine: Tensor, coarse: Tensor) -> Tensor:
        """(B, C, h, w) and maps of any size -> (B, dim, 2 h, 2 w)."""
        grid = (features.shape[-2], features.shape[-1])
        doubled = (2 * grid[0], 2 * grid[1])
        maps = self.block_0(torch.cat((features.to(coarse.dtype), nearest(coarse, grid)), dim=1))
        maps = self.up_1["up"](maps) + F.interpolate(maps, doubled, mode="bilinear", align_corners=True)
        return self.block_1(torch.cat((maps, nearest(fine, doubled)), dim=1))

"""The kernel of Upsample Anything (arXiv 2511.16301): a Gaussian of place and colour on every cell."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.pieces import Range, assemble
from naf_hub.parts.precision import autocast_off, working_dtype

from .axis_tiles import Tiles

EPS = 1e-8
NARROWEST = 1e-6
# Bytes that one pair of a pixel and a cell takes at the peak, in the fit.
BYTES_PER_PAIR = 40


class Splats(NamedTuple):
    """One Gaussian a cell, each number as (h, w).

    Attributes:
        across, along: standard deviations in pixels, before the turn.
        angle: of the turn, in radians.
        colour: standard deviation of colours in [0, 1].
    """

    across: Tensor
    along: Tensor
    angle: Tensor
    colour: Tensor

    def quadratic(self) -> Tensor:
        """(4, h, w): factors of dx^2, 2 dx dy, dy^2 and the squared distance of colours in minus the logarithm."""
        across, along, colour = (
            1 / (2 * width.clamp_min(NARROWEST).square() + EPS)
            for width in (self.across, self.along, self.colour)
        )
        cos, sin = self.angle.cos(), self.angle.sin()
        return torch.stack(
            (
                across * cos.square() + along * sin.square(),
                (across - along) * cos * sin,
                across * sin.square() + along * cos.square(),
                colour,
            )
        )


class SplatKernel:
    """Each pixel is a mean of the cells around it, weighted by their Gaussians at its place and colour.

    A pixel sees the cells whose offset from its nearest one lies in a disc of twice the greater width that the
    Gaussians have there, in cells, at most ``radius``. Offsets past the border count for the cell at the border, which
    so counts several times, as published. Squares are multiplied out, so that all weights of a tile of pixels are one
    product of matrices; in float64, since large terms cancel in it.

    Args:
        image: (3, H, W) in [0, 1], of the output's size.
        grid: (h, w), neither above the image's.
        radius: the greatest, in cells.
        scale: pixels per cell on each axis; default H / h and W / w.
    """

    def __init__(
        self, image: Tensor, grid: tuple[int, int], radius: int, scale: tuple[float, float] | None = None
    ) -> None:
        (height, width), (h, w) = image.shape[1:], grid
        self.image, self.grid, self.radius = image, grid, radius
        down, across = scale or (height / h, width / w)
        self.y = Tiles(h, height, down, image.device)
        self.x = Tiles(w, width, across, image.device)
        # Of points, not means: the published code resizes without antialiasing.
        self.colours = F.interpolate(image[None], grid, mode="bilinear")[0].double()
        offset = torch.arange(-radius, radius + 1, device=image.device).square()
        radii = torch.arange(radius + 1, device=image.device).square()
        self.discs = (offset[:, None] + offset <= radii[:, None, None]).double()

    def reaches(self, splats: Splats) -> Tensor:
        """How many cells far each pixel sees, (H, W) integers of 1 to ``radius``."""
        widths = torch.maximum(splats.across, splats.along).detach().to(self.image.dtype)
        widths = F.interpolate(widths.clamp_min(NARROWEST)[None, None], self.image.shape[1:], mode="bilinear")
        return (2 * widths[0, 0]).ceil().clamp(1, self.radius).long()

    def ranges(self, channels: int, memory: int) -> tuple[list[Range], list[Range]]:
        """Rows and columns of pixels whose tiles keep to ``memory`` bytes, as far as single tiles allow."""
        area = self.y.size * self.x.size
        cells = min(self.grid[0], 2 * self.radius + 1) * min(self.grid[1], 2 * self.radius + 1)
        itemsize = self.image.dtype.itemsize
        numbers = channels * (cells + 2 * area) + (self.radius + 1) * cells
        tiles = max(1, memory // (BYTES_PER_PAIR * area * cells + itemsize * numbers))
        return self.y.ranges(max(1, tiles // self.grid[1])), self.x.ranges(min(tiles, self.grid[1]))

    def mean(self, quadratic: Tensor, reaches: Tensor, values: Tensor, rows: Range, cols: Range) -> Tensor:
        """Means (C, n, m) at a range of pixels.

        Args:
            quadratic: see :meth:`Splats.quadratic`, float64.
            reaches: see :meth:`reaches`.
            values: (C, h, w).
            rows, cols: of :meth:`ranges`.
        """
        down, across = self.y.tiles(rows), self.x.tiles(cols)
        y, x = self.y.reach(down, self.radius), self.x.reach(across, self.radius)
        index = (y.cells[:, None, :, None] * self.grid[1] + x.cells[None, :, None, :]).flatten(2)

        own_y, own_x = (torch.arange(s.start, s.stop, device=index.device)[:, None] for s in (down, across))
        dy, dx = torch.broadcast_tensors(
            ((y.cells - own_y) * self.y.scale)[:, None, :, None],
            ((x.cells - own_x) * self.x.scale)[None, :, None, :],
        )
        dy, dx = dy.flatten(2), dx.flatten(2)
        a, b, c, d = quadratic.flatten(1)[:, index]
        colours = self.colours.flatten(1)[:, index]
        constant = a * dx.square() + 2 * b * dx * dy + c * dy.square() + d * colours.square().sum(0)
        by_cell = [-a, -2 * b, -c, 2 * (a * dx + b * dy), 2 * (b * dx + c * dy), -constant, -d]
        by_cell += [2 * d * colour for colour in colours]

        pixels = (self.y.pixels[down][:, None, :, None], self.x.pixels[across][None, :, None, :])
        colours = self.image.double()[:, pixels[0], pixels[1]]
        py, px, _ = torch.broadcast_tensors(
            self.y.offset[down][:, None, :, None], self.x.offset[across][None, :, None, :], colours[0]
        )
        one = torch.ones_like(px)
        by_pixel = [px.square(), px * py, py.square(), px, py, one, colours.square().sum(0), *colours]
        # (tiles down, tiles across, pixels, cells)
        logits = torch.stack(by_pixel, dim=-1).flatten(2, 3) @ torch.stack(by_cell, dim=-2)

        # How many offsets meet each cell at each radius.
        times = torch.einsum("ydi,rde->yrie", y.times, self.discs)
        times = torch.einsum("yrie,xej->yxrij", times, x.times).flatten(3).log().to(values.dtype)
        seen = reaches[pixels].flatten(2)
        tile = torch.arange(seen.shape[0] * seen.shape[1], device=seen.device).view(*seen.shape[:2], 1)
        often = times.flatten(0, 2)[tile * (self.radius + 1) + seen]
        logits = (logits - logits.detach().amax(-1, keepdim=True)).to(values.dtype) + often
        mixed = logits.softmax(-1) @ values.flatten(1).T[index]
        mixed = mixed.unflatten(2, (self.y.size, self.x.size)).permute(4, 0, 2, 1, 3)
        mixed = mixed.flatten(3, 4).flatten(1, 2)
        return mixed[:, self.y.places(rows)][:, :, self.x.places(cols)]

    def __call__(self, splats: Splats, features: Tensor, memory: int) -> Tensor:
        """Features (C, h, w) at the image's pixels, (C, H, W) in their dtype, computed in float32 or better."""
        quadratic, reaches = splats.quadratic(), self.reaches(splats)
        rows, cols = self.ranges(len(features), memory)

        def piece(_: Range, y: Range, x: Range) -> Tensor:
            with autocast_off(features.device):
                values = features.to(working_dtype(features.dtype))
                return self.mean(quadratic, reaches, values, y, x)[None]

        shape = (1, len(features), self.image.shape[1], self.image.shape[2])
        return assemble(piece, shape, features, rows=rows, cols=cols)[0]

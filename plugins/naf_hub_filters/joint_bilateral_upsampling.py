"""Joint bilateral upsampling of Kopf et al. 2007: weights over low-resolution cells."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from naf_hub import Promises, Upsampler
from naf_hub.parts.pieces import WORKING_BYTES, Range, assemble
from naf_hub.parts.precision import without_autocast, working_dtype
from naf_hub.parts.sizes import are_equal, are_known, average_pool, number

from .borders import take
from .interpolation import resize

CELL_GUIDANCE = ("pooled", "nearest")


class JointBilateralUpsampling(Upsampler):
    """Joint bilateral upsampling (Kopf et al. 2007).

        ``out_p = sum_q F_q exp(-|p - q|^2 / 2 sd^2) exp(-|G_p - G_q|^2 / 2 sr^2) / sum_q (the same)``

    over the (2 ``radius`` + 1)^2 low-resolution cells around the one that contains p; cells outside the
    grid are left out. The guidance is the image in [0, 1], resized bilinearly to the output where its
    size differs. No weights. With an output smaller than the features each pixel still averages the cells
    around it.

    Args:
        radius: of the window, in cells.
        sigma_spatial: sd, in cells.
        sigma_color: sr, Euclidean distance of RGB in [0, 1].
        cell_guidance: guidance G_q of a cell: ``"pooled"``, the mean of its pixels, or ``"nearest"``,
            the pixel at its centre as in the paper.

    Raises:
        ValueError: a negative radius, a sigma that is not positive, or an unknown ``cell_guidance``.
    """

    promises = Promises(linear_groups=1, range=True, translation=True, open_sizes=True)

    def __init__(
        self,
        radius: int = 2,
        sigma_spatial: float = 0.5,
        sigma_color: float = 0.1,
        cell_guidance: str = "pooled",
    ) -> None:
        super().__init__()
        if radius < 0:
            raise ValueError(f"radius must be at least 0 cells, got {radius}")
        if not (sigma_color > 0 and sigma_spatial > 0):
            raise ValueError(
                f"sigmas must be positive, got {sigma_color} (color) and {sigma_spatial} (spatial)"
            )
        if cell_guidance not in CELL_GUIDANCE:
            raise ValueError(
                f"cell_guidance must be one of {', '.join(CELL_GUIDANCE)}, got {cell_guidance!r}"
            )
        self.radius = radius
        self.sigma_spatial = sigma_spatial
        self.sigma_color = sigma_color
        self.cell_guidance = cell_guidance

    def extra_repr(self) -> str:
        return (
            f"radius={self.radius}, sigma_spatial={self.sigma_spatial}, sigma_color={self.sigma_color}, "
            f"cell_guidance={self.cell_guidance!r}"
        )

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return _upsample(image, features, output_size, self)


class _Axis:
    """Output pixels of one axis, grouped by the cell that contains them."""

    def __init__(self, cells: int, pixels: int, radius: int) -> None:
        self.cells, self.pixels, self.radius = cells, pixels, radius
        self.cell_of = [(2 * i + 1) * cells // (2 * pixels) for i in range(pixels)]
        self.used = sorted(set(self.cell_of))
        self.first = {cell: self.cell_of.index(cell) for cell in self.used}
        counts = [self.cell_of.count(cell) for cell in self.used]
        self.most = max(counts)

    def ranges(self, step: int) -> list[Range]:
        """Pixel ranges of ``step`` cells each."""
        starts = [self.first[cell] for cell in self.used[:: max(1, step)]]
        return list(zip(starts, [*starts[1:], self.pixels], strict=True))

    def part(self, pixels: Range, like: Tensor) -> _Part:
        return _Part(self, pixels, like)


class _Part:
    """A range of pixels of an axis: n cells of at most g pixels with windows of k cells each.

    Attributes:
        pixels: n * g pixel indices; a cell with fewer pixels repeats its last one.
        windows: n * k cell indices, clipped to the grid.
        inside: (n, k), whether the cell is on the grid.
        squared: (n, g, k) squared distances in cells.
        place: where in ``pixels`` each pixel of the range is.
    """

    def __init__(self, axis: _Axis, pixels: Range, like: Tensor) -> None:
        cells = sorted(set(axis.cell_of[slice(*pixels)]))
        offsets = range(-axis.radius, axis.radius + 1)
        last = {cell: i for i, cell in enumerate(axis.cell_of)}
        group = [[min(axis.first[c] + i, last[c]) for i in range(axis.most)] for c in cells]
        window = [[c + d for d in offsets] for c in cells]
        self.count, self.group, self.side = len(cells), axis.most, len(offsets)
        self.pixels = torch.tensor(group).flatten()
        self.windows = torch.tensor(window).clamp(0, axis.cells - 1).flatten()
        at = like.new_tensor(group)
        position = (at + 0.5) * (axis.cells / axis.pixels) - 0.5
        cell = like.new_tensor(window)
        self.squared = (cell[:, None, :] - position[:, :, None]).square()
        self.inside = (cell >= 0) & (cell < axis.cells)
        rank = {c: i for i, c in enumerate(cells)}
        owner = axis.cell_of[slice(*pixels)]
        place = [rank[c] * axis.most + p - axis.first[c] for p, c in enumerate(owner, pixels[0])]
        self.place = torch.tensor(place)


@without_autocast
def _upsample(
    image: Tensor, features: Tensor, size: tuple[int, int], model: JointBilateralUpsampling
) -> Tensor:
    batch, channels, h, w = features.shape
    x = features.to(working_dtype(features.dtype))
    guidance = image.to(x.dtype)
    if not are_equal(guidance.shape[-2:], size):
        guidance = resize(guidance, size)
    if model.cell_guidance == "pooled":
        cells = average_pool(guidance, (h, w))
    else:
        cells = take(guidance, _centres(h, size[0]), _centres(w, size[1]))
    if not are_known(batch, h, w, *size):
        return _tap_by_tap(guidance, cells, x, model).to(features.dtype)
    vertical, horizontal = _Axis(h, size[0], model.radius), _Axis(w, size[1], model.radius)

    def piece(_: Range, rows: Range, cols: Range) -> Tensor:
        v, u = vertical.part(rows, x), horizontal.part(cols, x)
        area, taps = v.group * u.group, v.side * u.side

        def pixels(y: Tensor) -> Tensor:
            """(B, G, H, W) -> (B, G, n, m, P)"""
            y = take(y, v.pixels, u.pixels).reshape(batch, -1, v.count, v.group, u.count, u.group)
            return y.transpose(3, 4).reshape(batch, -1, v.count, u.count, area)

        def windows(y: Tensor) -> Tensor:
            """(B, G, h, w) -> (B, G, n, m, K)"""
            y = take(y, v.windows, u.windows).reshape(batch, -1, v.count, v.side, u.count, u.side)
            return y.transpose(3, 4).reshape(batch, -1, v.count, u.count, taps)

        spatial = v.squared[:, None, :, None, :, None] + u.squared[None, :, None, :, None, :]
        logits = spatial.reshape(v.count, u.count, area, taps) / (-2 * model.sigma_spatial**2)
        for own, other in zip(pixels(guidance).unbind(1), windows(cells).unbind(1), strict=True):
            difference = own[..., None] - other[..., None, :]
            logits = logits - difference.square() / (2 * model.sigma_color**2)
        inside = v.inside[:, None, :, None] & u.inside[None, :, None, :]
        logits = logits.masked_fill(~inside.reshape(v.count, u.count, 1, taps), -math.inf)
        weights = torch.softmax(logits, -1)
        out = windows(x).permute(0, 2, 3, 1, 4) @ weights.transpose(-1, -2)
        out = out.reshape(batch, v.count, u.count, channels, v.group, u.group).permute(0, 3, 1, 4, 2, 5)
        out = out.reshape(batch, channels, v.count * v.group, u.count * u.group)
        if out.shape[-2:] == (len(v.place), len(u.place)):
            return out  # every cell has the same number of pixels: all in place
        return take(out, v.place, u.place)

    area, taps = vertical.most * horizontal.most, (2 * model.radius + 1) ** 2
    values_per_cell = batch * (3 * channels * (area + taps) + 3 * area * taps)
    budget = max(1, WORKING_BYTES // (values_per_cell * x.dtype.itemsize))
    across = len(horizontal.used)
    return assemble(
        piece,
        (batch, channels, *size),
        features,
        [guidance],
        rows=vertical.ranges(budget // across),
        cols=horizontal.ranges(min(budget, across)),
    )


def _tap_by_tap(guidance: Tensor, cells: Tensor, features: Tensor, model: JointBilateralUpsampling) -> Tensor:
    """The same for a traced graph whose sizes are unknown: maps of the output's size, one a cell of the window.

    Args:
        guidance: (B, G, H, W) of the pixels.
        cells: (B, G, h, w) of the cells.
        features: (B, C, h, w).
    """
    (y, down, above), (x, right, beside) = (
        _window(cells, pixels, model.radius, features)
        for cells, pixels in zip(features.shape[-2:], guidance.shape[-2:], strict=True)
    )
    taps = list(itertools.product(range(len(y)), range(len(x))))
    scores = []
    for i, j in taps:
        difference = guidance - take(cells, y[i], x[j])
        score = (down[i][:, None] + right[j]) / (-2 * model.sigma_spatial**2)
        score = score - difference.square().sum(1) / (2 * model.sigma_color**2)
        scores.append(score.masked_fill(~(above[i][:, None] & beside[j]), -math.inf))
    weights = torch.stack(scores, 1).softmax(1)
    out = features.new_zeros(())
    for (i, j), weight in zip(taps, weights.unbind(1), strict=True):
        out = out + take(features, y[i], x[j]) * weight[:, None]
    return out


def _window(cells: int, pixels: int, radius: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Window of each pixel of an axis, (2 radius + 1, pixels) each: cells clipped to the grid (on the CPU), squared
    distances in cells, and whether the cell is on the grid."""
    window = _centres(pixels, cells) + torch.arange(-radius, radius + 1)[:, None]
    ratio = number(cells).double() / number(pixels)
    position = ((torch.arange(pixels) + 0.5) * ratio - 0.5).to(like)
    last = number(cells - 1)
    inside = (window >= 0) & (window <= last)
    return (
        torch.minimum(window.clamp(min=0), last),
        (window.to(like) - position).square(),
        inside.to(like.device),
    )


def _centres(cells: int, pixels: int) -> Tensor:
    """Pixel at the centre of each cell, ``floor((j + 0.5) pixels / cells)``, on the CPU; with the two exchanged the
    cell under each pixel."""
    return (2 * torch.arange(cells) + 1) * number(pixels) // number(2 * cells)

"""Attention of each pixel to those around it: NAF at ratio 1, where keys are queries (arXiv 2511.18452, section 6).

The scores of a square tile of pixels are one matrix product with all pixels that any window of the tile reaches; for
8 x 8 tiles and windows of 15 x 15 that is 2.2 times the arithmetic of the windows alone, at the speed of matrix
products. A band of tiles has its keys copied once, column by column: the keys of each tile are then one run of memory,
and the runs of neighbouring tiles overlap in place. Beside the maps only a band and the scores of a few tiles are
held; the backward pass computes the scores again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from naf_hub.parts.pieces import split

from .windows import window_slots

# Measured on one core with windows of 15: larger tiles waste more than they gain, and so do fewer or more at once.
TILE = 8
TILES_AT_ONCE = 16
# On an accelerator: large launches, whose scores take 124 kB a tile for windows of 15.
TILES_OF_A_LAUNCH = 1024


class Tiles(NamedTuple):
    """Neighbouring tiles of one axis whose windows lie alike in them.

    Attributes:
        start: first position of the first tile.
        number: how many.
        repeated: leading positions that an earlier tile has done already, or that are not wanted.
        allowed: (tile, reach) whether a position that the tile reaches lies in the window of one in the tile.
    """

    start: int
    number: int
    repeated: int
    allowed: Tensor


class Axis:
    """The tiles of one axis, and how far they reach.

    Args:
        size: positions of the axis.
        kernel_size: positions in a window, clipped to ``size``; at borders it is shifted inward, never padded.
        wanted: the positions that attend.
    """

    def __init__(self, size: int, kernel_size: int, wanted: range) -> None:
        self.size = size
        windows = torch.from_numpy(window_slots(size, size, kernel_size))
        window = windows.shape[1]
        self.before = (
            window // 2
        )  # positions that a tile reaches on its left; on its right, too, for odd windows
        # A tile of half a window or more reaches the whole of the windows that are shifted at borders.
        self.tile = min(max(TILE, window - self.before), size)
        self.reach = self.tile + window - 1
        self.tiles: list[Tiles] = []
        for begin in range(wanted.start, wanted.stop, self.tile):
            start = min(begin, size - self.tile)
            first = windows[start : start + self.tile, :1] - (start - self.before)
            ahead = torch.arange(self.reach) - first
            tiles = Tiles(start, 1, begin - start, (ahead >= 0) & (ahead < window))
            last = self.tiles[-1] if self.tiles else None
            if last and not tiles.repeated and torch.equal(last.allowed, tiles.allowed):
                self.tiles[-1] = last._replace(number=last.number + 1)
            else:
                self.tiles.append(tiles)


class Group(NamedTuple):
    """Tiles next to each other in one band, of some samples.

    Attributes:
        samples: which.
        y, x: first row and column.
        number: how many, of each sample.
        repeated_y, repeated_x: leading rows and columns of each tile that an earlier group has done already.
        bias: (1, pixels, reached) 0 inside the windows, -inf outside; columns before rows among what is reached.
    """

    samples: slice
    y: int
    x: int
    number: int
    repeated_y: int
    repeated_x: int
    bias: Tensor


class Bands:
    """What forward and backward share: the groups of tiles, and views of maps as tiles.

    Args:
        maps: (B, H, W, C) queries and keys.
        kernel_size: pixels per side of the window.
        rows: the rows that attend.
    """

    def __init__(self, maps: Tensor, kernel_size: int, rows: range) -> None:
        batch, height, width, _ = maps.shape
        self.maps, self.batch, self.rows = maps, batch, rows
        self.y, self.x = Axis(height, kernel_size, rows), Axis(width, kernel_size, range(width))
        # CPUs take one sample after the other, whose bands stay in cache; accelerators few large launches.
        cpu = maps.device.type == "cpu"
        self.at_once = TILES_AT_ONCE if cpu else TILES_OF_A_LAUNCH
        self.together = 1 if cpu else batch
        self.pixels, self.reached = self.y.tile * self.x.tile, self.y.reach * self.x.reach
        self.lines = width + self.x.reach - self.x.tile

    def __iter__(self) -> Iterator[tuple[slice, int, list[Group]]]:
        """Samples, first row and groups of each band."""
        biases = [[self._bias(y, x) for x in self.x.tiles] for y in self.y.tiles]
        for piece in split(self.batch, self.together):
            samples, at_once = slice(*piece), max(1, self.at_once // (piece[1] - piece[0]))
            for y, line in zip(self.y.tiles, biases, strict=True):
                for top in range(y.start, y.start + y.number * self.y.tile, self.y.tile):
                    yield (
                        samples,
                        top,
                        [
                            Group(
                                samples,
                                top,
                                x.start + done * self.x.tile,
                                min(at_once, x.number - done),
                                y.repeated,
                                x.repeated,
                                bias,
                            )
                            for x, bias in zip(self.x.tiles, line, strict=True)
                            for done in range(0, x.number, at_once)
                        ],
                    )

    def _bias(self, y: Tiles, x: Tiles) -> Tensor:
        inside = y.allowed[:, None, None, :] & x.allowed[None, :, :, None]
        bias = torch.zeros(inside.shape).masked_fill_(~inside, -math.inf)
        return bias.reshape(1, self.pixels, self.reached).to(self.maps)

    def buffer(self, channels: int) -> Tensor:
        """Zeros (samples, columns, rows, ``channels``) for what a band reaches."""
        return self.maps.new_zeros(self.together, self.lines, self.y.reach, channels)

    def real(self, buffer: Tensor, top: int) -> tuple[Tensor, slice]:
        """The part of a band's buffer that lies on the map, as (samples, rows, columns, channels), and its rows."""
        first = top - self.y.before
        rows = slice(max(0, first), min(self.y.size, first + self.y.reach))
        columns = slice(self.x.before, self.x.before + self.x.size)
        return buffer[:, columns, rows.start - first : rows.stop - first].transpose(1, 2), rows

    def load(self, buffer: Tensor, maps: Tensor, top: int) -> None:
        """Fill a band's buffer from maps (samples, H, W, channels); what is off the map is left zero, hence finite."""
        buffer.zero_()
        target, rows = self.real(buffer, top)
        target.copy_(maps[:, rows])

    def reach(self, buffer: Tensor, group: Group, every: int = 1, offset: int = 0) -> Tensor:
        """Buffer as (samples, tiles, reached, channels), overlapping in memory; of every ``every``-th tile from
        ``offset``."""
        run = self.y.reach * buffer.shape[-1]
        shape = (len(buffer), len(range(offset, group.number, every)), self.reached, buffer.shape[-1])
        strides = (buffer.stride(0), every * self.x.tile * run, buffer.shape[-1], 1)
        return buffer.as_strided(shape, strides, (group.x + offset * self.x.tile) * run)

    def reached_by(self, buffer: Tensor, group: Group) -> Tensor:
        """:meth:`reach` as (samples * tiles, reached, channels): of one sample a view."""
        return self.reach(buffer, group).flatten(0, 1)

    def tiles(self, maps: Tensor, group: Group) -> Tensor:
        """Maps (B, H, W, channels) as (samples, tile rows, tiles, tile columns, channels): a view."""
        rows = slice(group.y, group.y + self.y.tile)
        columns = slice(group.x, group.x + group.number * self.x.tile)
        return maps[group.samples, rows, columns].unflatten(2, (group.number, self.x.tile))

    def queries(self, maps: Tensor, group: Group) -> Tensor:
        """Maps as (samples * tiles, pixels, channels)."""
        return self.tiles(maps, group).transpose(1, 2).reshape(-1, self.pixels, maps.shape[-1])

    def spread(self, pixels: Tensor, group: Group) -> Tensor:
        """(samples * tiles, pixels, channels) as :meth:`tiles` orders them."""
        shape = (-1, group.number, self.y.tile, self.x.tile, pixels.shape[-1])
        return pixels.reshape(shape).transpose(1, 2)

    def weights(self, group: Group, keys: Tensor) -> Tensor:
        """Attention of each pixel on what its tile reaches: (samples * tiles, pixels, reached)."""
        queries = self.queries(self.maps, group) * self.maps.shape[-1] ** -0.5
        return torch.baddbmm(group.bias, queries, self.reached_by(keys, group).mT).softmax(dim=-1)

    def add_to_reach(self, buffer: Tensor, group: Group, amounts: Tensor) -> None:
        """Add (samples * tiles, reached, channels) to a band's buffer, where tiles overlap."""
        every = -(-self.x.reach // self.x.tile)  # so many tiles apart they do not
        amounts = amounts.unflatten(0, (-1, group.number))
        for offset in range(min(every, group.number)):
            self.reach(buffer, group, every, offset).add_(amounts[:, offset::every])


def attend(maps: Tensor, values: Tensor, kernel_size: int, rows: range | None = None) -> Tensor:
    """Each pixel's average of values in its window, weighted by the softmax of scaled products of the maps.

    One attention head. The window is centred on the pixel, and shifted inward at borders; sides smaller than it clip
    it. Nothing is recorded for a backward pass; see :func:`pixel_attention`.

    Args:
        maps: (B, H, W, C), queries and keys, float32 or float64.
        values: (B, H, W, D) of the same dtype.
        kernel_size: pixels per side of the window.
        rows: the rows that are wanted, by default all.

    Returns:
        (B, rows, W, D).
    """
    rows = range(maps.shape[1]) if rows is None else rows
    bands = Bands(maps, kernel_size, rows)
    output = torch.empty_like(values, memory_format=torch.contiguous_format)
    band_keys, band_values = bands.buffer(maps.shape[-1]), bands.buffer(values.shape[-1])
    for samples, top, groups in bands:
        bands.load(band_keys, maps[samples], top)
        bands.load(band_values, values[samples], top)
        for group in groups:
            weights = bands.weights(group, band_keys)
            # Transposed, the thin product is half as slow.
            mixed = torch.bmm(bands.reached_by(band_values, group).mT.contiguous(), weights.mT).mT
            bands.tiles(output, group).copy_(bands.spread(mixed, group))
    return output[:, rows.start : rows.stop]


class _PixelAttention(torch.autograd.Function):
    """:func:`attend` on all rows, with a backward pass that keeps maps, values and output, and no score."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, values: Tensor, kernel_size: int) -> Tensor:
        output = attend(maps, values, kernel_size)
        ctx.save_for_backward(maps, values, output)
        ctx.kernel_size = kernel_size
        return output

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *grads: Tensor
    ) -> tuple[Tensor, Tensor, None]:
        maps, values, output = ctx.saved_tensors
        (grad,) = grads
        bands = Bands(maps, ctx.kernel_size, range(maps.shape[1]))
        to_maps, to_values = torch.zeros_like(maps), torch.zeros_like(values)
        band_keys, band_values = bands.buffer(maps.shape[-1]), bands.buffer(values.shape[-1])
        to_keys, to_band_values = torch.zeros_like(band_keys), torch.zeros_like(band_values)
        scale = maps.shape[-1] ** -0.5
        for samples, top, groups in bands:
            bands.load(band_keys, maps[samples], top)
            bands.load(band_values, values[samples], top)
            to_keys.zero_()
            to_band_values.zero_()
            for group in groups:
                tile = bands.tiles(grad, group).clone()
                tile[:, : group.repeated_y] = 0
                tile[:, :, :, : group.repeated_x] = 0
                upstream = tile.transpose(1, 2).reshape(-1, bands.pixels, tile.shape[-1])
                mean = (upstream * bands.queries(output, group)).sum(-1, keepdim=True)
                weights = bands.weights(group, band_keys)
                bands.add_to_reach(to_band_values, group, torch.bmm(weights.mT, upstream))
                # Of the softmax: weight * (its own gradient - the weighted mean of all).
                scores = torch.bmm(upstream, bands.reached_by(band_values, group).mT).sub_(mean).mul_(weights)
                scores *= scale
                bands.add_to_reach(to_keys, group, torch.bmm(scores.mT, bands.queries(maps, group)))
                queries = torch.bmm(scores, bands.reached_by(band_keys, group))
                bands.tiles(to_maps, group).add_(bands.spread(queries, group))
            for total, band in ((to_maps, to_keys), (to_values, to_band_values)):
                amounts, rows = bands.real(band, top)
                total[samples, rows] += amounts
        return to_maps, to_values, None


def pixel_attention(maps: Tensor, values: Tensor, kernel_size: int) -> Tensor:
    """:func:`attend` on all rows, (B, H, W, D), with gradients to maps and values in bounded memory."""
    return _PixelAttention.apply(maps, values, kernel_size)  # pyright: ignore[reportReturnType]

"""One learned joint bilateral upsampling by two (FeatUp, arXiv 2403.10516, section 3.2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.pieces import WORKING_BYTES, Range, assemble, split
from naf_hub.parts.sizes import are_known, number

RADIUS = 3
SIDE = 2 * RADIUS + 1
TAPS = SIDE**2
KEY_WIDTH = 32
DROPOUT = 0.1
# Output pixels per side that share one block of cells.
TILE = 8


class JBUStage(nn.Module):
    """Bicubic upsampling by two, then a 7x7 filter of every pixel's own, whose taps the image decides.

    With e a two-layer pointwise network of the guidance: taps ``softmax_t(T <e(p + t), e(p)>)`` times a Gaussian of
    the distance, made to sum to one, plus a tenth of a pointwise network of those taps and the guidance, after which
    they may be negative and sum to anything. The same filter serves all channels. Borders are reflected; an axis of
    fewer than four pixels repeats its edge instead, which the published code refuses.
    """

    def __init__(self) -> None:
        super().__init__()
        self.range_temp = nn.Parameter(torch.tensor(0.0))
        self.sigma_spatial = nn.Parameter(torch.tensor(1.0))
        self.range_proj = _network(3, KEY_WIDTH, KEY_WIDTH)
        self.fixup_proj = _network(TAPS + 3, TAPS, TAPS)

    def range_taps(self, guidance: Tensor, rows: Range, keep: Tensor | None = None) -> Tensor:
        """Taps (B, 49, n, W) of some rows of the guidance (B, 3, H, W), before the fix-up.

        ``keep`` (B, 32, 1, 1) scales hidden channels: the dropout of a training step.
        """
        height, width = guidance.shape[-2:]
        index = reflected(rows[0] - RADIUS, rows[1] + RADIUS, height, guidance.device)
        keys = _run(self.range_proj, guidance[:, :, index], keep)
        centre = keys[:, :, RADIUS:-RADIUS]
        keys = keys[..., reflected(-RADIUS, width + RADIUS, width, guidance.device)]
        temperature = self.range_temp.to(keys.dtype).exp().clamp(1e-4, 1e4)
        offset = torch.linspace(-1, 1, SIDE, dtype=keys.dtype, device=keys.device).square()
        distance = (offset[:, None] + offset).flatten()[:, None, None]
        near = torch.exp(-distance / (2 * self.sigma_spatial.to(keys.dtype).square()))
        taps = (temperature * _similarities(keys, centre)).softmax(1) * near
        return taps / taps.sum(1, keepdim=True).clamp_min(1e-7)

    def taps(self, guidance: Tensor, rows: Range, keep: Sequence[Tensor | None] = (None, None)) -> Tensor:
        """Taps (B, 49, n, W) of some rows; ``keep`` as for :meth:`range_taps`, and the same for the fix-up."""
        found = self.range_taps(guidance, rows, keep[0])
        mixed = torch.cat((found, guidance[:, :, slice(*rows)]), dim=1)
        return found + 0.1 * _run(self.fixup_proj, mixed, keep[1])

    def forward(self, features: Tensor, guidance: Tensor, projection: Projection | None = None) -> Tensor:
        """Upsample by two.

        Args:
            features: (B, C, h, w), float32 or float64.
            guidance: (B, 3, 2h, 2w) of the same dtype, normalised.
            projection: applied to the result, or ``None``.

        Returns:
            (B, C, 2h, 2w).
        """
        batch, channels, h, w = features.shape
        # Drawn once for the whole map: every piece must drop the same channels.
        keep = [self._keep(features, width) for width in (KEY_WIDTH, TAPS)]
        if not are_known(batch, h, w):
            found = self._at_any_size(features, self.taps(guidance, (0, 2 * h), keep))
            return found if projection is None else projection(found)
        like = features.new_empty(())
        y, x = _Axis(h, like), _Axis(w, like)
        tap_of = _tap_of_window(y.tile, x.tile, features.device)
        cells = features.flatten(2).mT

        def piece(_: Range, rows: Range, __: Range) -> Tensor:
            down = slice(rows[0] // y.tile, -(-rows[1] // y.tile))
            ny, nx, area = down.stop - down.start, len(x.cells), y.tile * x.tile
            taps = self.taps(guidance, rows, keep).permute(0, 2, 3, 1)
            # A column more, of zeros: what a window holds beside a pixel's own taps.
            taps = F.pad(taps, (0, 1, 0, nx * x.tile - taps.shape[2], 0, ny * y.tile - taps.shape[1]))
            taps = taps.unflatten(2, (nx, x.tile)).unflatten(1, (ny, y.tile)).permute(0, 1, 3, 2, 4, 5)
            taps = taps.reshape(batch, ny, nx, area, TAPS + 1)
            dense = torch.gather(taps, -1, tap_of.expand(batch, ny, nx, *tap_of.shape))
            # Weights of pixels become weights of cells, one axis after the other: the upsampled map is never made.
            dense = dense.unflatten(-1, (y.window, x.window)).flatten(3, 4) @ x.bicubic
            dense = (
                dense.unflatten(3, (area, y.window)).transpose(-1, -2).flatten(3, 4) @ y.bicubic[down, None]
            )
            weights = dense.unflatten(3, (area, x.reach)).flatten(-2).flatten(0, 2)
            index = (y.cells[down][:, None, None, :] * w + x.cells[None, :, :, None]).flatten()
            seen = cells[:, index].reshape(-1, x.reach * y.reach, channels)
            mixed = (seen.mT @ weights.mT).reshape(batch, ny, nx, channels, y.tile, x.tile)
            mixed = mixed.permute(0, 3, 1, 4, 2, 5).reshape(batch, channels, ny * y.tile, nx * x.tile)
            mixed = mixed[..., : rows[1] - rows[0], : 2 * w]
            return mixed if projection is None else projection(mixed)

        area, reach = y.tile * x.tile, y.reach * x.reach
        numbers = 3 * y.tile * 2 * w * (TAPS + KEY_WIDTH + channels)
        numbers += len(x.cells) * (2 * area * (y.window * x.window + reach) + reach * channels)
        budget = WORKING_BYTES // (batch * numbers * features.element_size())
        inputs = [guidance, *self.parameters(), *(projection.tensors() if projection else ())]
        shape = (batch, channels, 2 * h, 2 * w)
        return assemble(piece, shape, features, inputs, rows=split(2 * h, max(1, budget) * y.tile))

    def _at_any_size(self, features: Tensor, taps: Tensor) -> Tensor:
        """The filter where sizes are unknown, which tiles are chosen from: of the upsampled map, whole."""
        height, width = taps.shape[-2:]
        maps = F.interpolate(features, (height, width), mode="bicubic")
        rows, columns = (reflected(-RADIUS, side + RADIUS, side, maps.device) for side in (height, width))
        near = _across(maps.index_select(2, rows).index_select(3, columns), width)
        total: Tensor | None = None
        for i in range(SIDE):
            factors = taps.narrow(1, i * SIDE, SIDE).transpose(1, 2)[:, None]
            part = (near.narrow(2, i, height) * factors).sum(3)
            total = part if total is None else total + part
        assert total is not None
        return total

    def _keep(self, like: Tensor, width: int) -> Tensor | None:
        if not self.training:
            return None
        return F.dropout2d(like.new_ones(len(like), width, 1, 1), DROPOUT)


class Projection(NamedTuple):
    """``y + 0.1 (weight (keep y) + bias)`` at each pixel, the last step of a stack.

    Attributes:
        weight: (C, C, 1, 1).
        bias: (C,).
        keep: (B, C, 1, 1), scales channels before the product: the dropout of a training step; or ``None``.
    """

    weight: Tensor
    bias: Tensor
    keep: Tensor | None = None

    def __call__(self, maps: Tensor) -> Tensor:
        kept = maps if self.keep is None else maps * self.keep
        weight, bias = (t.to(maps.dtype) for t in (self.weight, self.bias))
        return maps + 0.1 * F.conv2d(kept, weight, bias)

    def tensors(self) -> tuple[Tensor, Tensor]:
        """What a gradient may be wanted for."""
        return self.weight, self.bias


class _Axis:
    """One axis of the upsampled map in tiles, with the cells that each tile's window is interpolated from.

    Attributes:
        tile: pixels per tile.
        window: pixels of its window, ``tile + 6``.
        reach: cells of its window.
        cells: (tiles, reach).
        bicubic: (tiles, window, reach) weights of the cells in each pixel of the window, borders reflected.
    """

    def __init__(self, count: int, like: Tensor) -> None:
        pixels = 2 * count
        self.tile = min(TILE, pixels)
        self.window = self.tile + 2 * RADIUS
        tiles = -(-pixels // self.tile)
        eye = torch.eye(count, dtype=like.dtype, device=like.device)
        # Rows are constant along the other axis, which bicubic weights that sum to one leave as it is.
        matrix = F.interpolate(eye[None, :, :, None], (pixels, 1), mode="bicubic")[0, :, :, 0].T
        # Two cells to either side of the window's own, as far as there are any, and what the borders reflect.
        self.reach = min(count, self.window // 2 + 5)
        first = [min(max(self.tile * t // 2 - 4, 0), count - self.reach) for t in range(tiles)]
        self.cells = torch.tensor([[f + i for i in range(self.reach)] for f in first], device=like.device)
        parts = []
        for t, start in enumerate(first):
            at = t * self.tile
            # Pixels past the end belong to no output; any row will do for them.
            rows = reflected(at - RADIUS, at + self.tile + RADIUS, pixels, like.device)
            parts.append(matrix[rows, start : start + self.reach])
        self.bicubic = torch.stack(parts)


def reflected(start: int, stop: int, size: int, device: torch.device) -> Tensor:
    """Indices of ``start .. stop - 1``, mirrored about the edge pixels; a short axis repeats its edge instead."""
    if not are_known(start, stop, size):
        place, end = torch.arange(start, stop, device=device), number(size - 1, device)
        return end - (end - place.abs()).abs()
    last = size - 1

    def mirror(i: int) -> int:
        if size > RADIUS:
            i = -i if i < 0 else 2 * last - i if i > last else i
        return min(max(i, 0), last)

    return torch.tensor([mirror(i) for i in range(start, stop)], device=device)


def _similarities(keys: Tensor, centre: Tensor) -> Tensor:
    """Products (B, 49, n, W) of the keys (B, K, n, W) of pixels and those of their windows (B, K, n + 6, W + 6)."""
    count, width = centre.shape[-2:]
    if not are_known(*keys.shape):
        near, own = _across(keys, width), centre[:, :, :, None]
        rows = [(near.narrow(2, i, count) * own).sum(1).transpose(1, 2) for i in range(SIDE)]
        return torch.cat(rows, dim=1)
    scores = [
        (keys[:, :, i : i + count, j : j + width] * centre).sum(1) for i in range(SIDE) for j in range(SIDE)
    ]
    return torch.stack(scores, dim=1)


def _across(maps: Tensor, width: int) -> Tensor:
    """The columns that each column's window has in each row: (B, C, H, width + 6) -> (B, C, H, 7, width)."""
    places = torch.arange(SIDE, device=maps.device)[:, None] + torch.arange(width, device=maps.device)
    return maps.index_select(3, places.flatten()).unflatten(3, (SIDE, width))


def _tap_of_window(height: int, width: int, device: torch.device) -> Tensor:
    """(pixels, window): which tap of a tile's pixel each pixel of its window is; ``TAPS`` for none."""
    rows = torch.arange(height + 2 * RADIUS, device=device) - torch.arange(height, device=device)[:, None]
    columns = torch.arange(width + 2 * RADIUS, device=device) - torch.arange(width, device=device)[:, None]
    i, j = rows[:, None, :, None], columns[None, :, None, :]
    inside = (i >= 0) & (i < SIDE) & (j >= 0) & (j < SIDE)
    return torch.where(inside, i * SIDE + j, TAPS).reshape(height * width, -1)


def _network(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, hidden, 1), nn.GELU(), nn.Dropout2d(DROPOUT), nn.Conv2d(hidden, outputs, 1)
    )


def _run(network: nn.Sequential, x: Tensor, keep: Tensor | None) -> Tensor:
    """A network's result in the dtype of ``x``, with dropout drawn by the caller."""
    first, second = network[0], network[3]
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.Conv2d)
    hidden = F.gelu(_conv(first, x))
    return _conv(second, hidden if keep is None else hidden * keep)


def _conv(layer: nn.Conv2d, x: Tensor) -> Tensor:
    assert layer.bias is not None
    return F.conv2d(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))

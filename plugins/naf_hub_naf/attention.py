"""Cross-scale neighborhood attention as small dense products (NAF, arXiv 2511.18452, section 3.2).

Pixels of one tile share a run of low-resolution cells, so a tile's keys and values are gathered once and its
attention is a dense product; cells outside a pixel's own window are masked. At integer ratios a tile is one
cell's pixels and nothing is masked. No upsampled keys or values, no dilation, one code path for every ratio.
"""

from __future__ import annotations

import operator
import threading

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.pieces import split
from naf_hub.parts.sizes import are_known

from .spatial import DistanceWeight, decay
from .windows import AxisTiles, plan_tiles

# CUDA launches at most 65535 blocks along the axis that attention kernels use for batch x heads.
_LARGEST_BATCH = 65535

# Samples, tile rows and tile columns (or output rows and columns) that are done together.
Chunk = tuple[slice, slice, slice]


class _Axis:
    """Tables of one axis as tensors on the device of the computation."""

    def __init__(self, plan: AxisTiles, like: Tensor) -> None:
        device, dtype = like.device, like.dtype
        self.plan = plan
        self.cells = torch.tensor(plan.cells, device=device)
        self.slots = torch.tensor(plan.slots, device=device)
        # Logarithm of how many slots a cell fills; none where each fills one.
        self.bias = None if plan.bias is None else torch.tensor(plan.bias, device=device, dtype=dtype)
        self.offset = torch.tensor(plan.offset, device=device, dtype=dtype)

    @classmethod
    def of(cls, plan: AxisTiles, like: Tensor) -> _Axis:
        """Tables that calls of the same sizes share: to copy them to an accelerator again would wait for it."""
        if torch.compiler.is_compiling():
            return cls(plan, like)
        key = (id(plan), like.device, like.dtype)
        with _lock:
            axis = _axes.pop(key, None)
            if axis is None:
                with torch.inference_mode(False):  # for calls with gradients, too
                    axis = cls(plan, like)
            _axes[key] = axis  # the plan lives in it, so that no other gets its id
            while len(_axes) > _AXES:
                del _axes[next(iter(_axes))]
        return axis


_AXES = 64
_axes: dict[tuple[int, torch.device, torch.dtype], _Axis] = {}
_lock = threading.Lock()


def _slices(total: int, step: int) -> list[slice]:
    return [slice(*piece) for piece in split(total, step)]


def split_heads(values: Tensor, heads: int) -> tuple[Tensor, Tensor | None]:
    """Contiguous channel groups, one a head, sized as ``torch.tensor_split`` sizes them.

    Returns:
        (B, h, w, heads, ceil(D / heads)) with zeros filling the shorter groups, and the positions of the D
        channels in its last two axes, or ``None`` where all groups are equal.
    """
    channels = values.shape[-1]
    if channels % heads == 0:
        return values.unflatten(-1, (heads, channels // heads)), None
    width = -(-channels // heads)
    groups = torch.tensor_split(values, heads, dim=-1)
    padded = torch.stack([F.pad(g, (0, width - g.shape[-1])) for g in groups], dim=-2)
    # The first groups are full, those after them one shorter; computed where it is used, without a copy to there.
    full = channels % heads * width
    kept = torch.arange(channels, device=values.device)
    return padded, torch.where(kept < full, kept, kept + (kept - full) // max(1, width - 1))


class CrossScaleAttention:
    """Each pixel attends to a window of low-resolution cells, in chunks that keep to a memory budget.

    Args:
        queries: (B, H, W, C), float32 or float64, channels last.
        keys: (B, h, w, C) of the same dtype, h <= H and w <= W.
        values: (B, h, w, D), any floating dtype.
        heads: attention heads; divides C. D is split as ``torch.tensor_split`` does.
        kernel_size: cells per side of the window.
        memory: bytes of working memory to keep to, besides inputs and output.
        weight: factor on the scores by distance, or ``None``.
        locality: standard deviation in cells of a Gaussian of the distance whose logarithm is added to the scores.
        fused: use ``scaled_dot_product_attention``; by default on everything but CPUs.
        plans: tiles of both axes, where the queries are some rows of a larger map; by default the cheapest.
    """

    def __init__(
        self,
        queries: Tensor,
        keys: Tensor,
        values: Tensor,
        *,
        heads: int,
        kernel_size: int,
        memory: int,
        weight: DistanceWeight | None = None,
        locality: float | None = None,
        fused: bool | None = None,
        plans: tuple[AxisTiles, AxisTiles] | None = None,
    ) -> None:
        _, h, w, channels = keys.shape
        self.queries, self.heads, self.memory = queries, heads, memory
        self.weight, self.locality = weight, locality
        self.fused = queries.device.type != "cpu" if fused is None else fused
        self.grid, self.dtype, self.out_channels = (h, w), values.dtype, values.shape[-1]
        values, self.kept = split_heads(values.to(queries.dtype), heads)
        self.key_dim, self.value_dim = channels // heads, values.shape[-1]
        # One row per (sample, cell, head), so that gathering a tile's operands is a plain row lookup.
        self.keys = (keys * self.key_dim**-0.5).reshape(-1, self.key_dim)
        self.values = values.reshape(-1, self.value_dim)
        tables = _Axis  # those of some rows serve once
        if plans is None:
            tables = _Axis.of
            plans = self.plan(
                (h, w), (queries.shape[1], queries.shape[2]), heads, kernel_size, memory, queries
            )
        self.y, self.x = (tables(plan, queries) for plan in plans)

    @staticmethod
    def plan(
        grid: tuple[int, int], size: tuple[int, int], heads: int, kernel_size: int, memory: int, like: Tensor
    ) -> tuple[AxisTiles, AxisTiles]:
        """The cheapest tiles of both axes of an output of ``size`` in the dtype of ``like``."""
        # `index` makes torch.compile take the sizes as constants, which tables must be made from.
        h, w, height, width = (operator.index(n) for n in (*grid, *size))
        return plan_tiles(h, w, height, width, kernel_size, memory // (3 * heads * like.element_size()))

    def output(self, into: Tensor | None = None) -> Tensor:
        """Attended values (B, H, W, D) in the dtype of ``values``, or ``into`` a tensor of that shape."""
        return self._run(want_logits=False, into=into)[0]

    def output_and_logits(self) -> tuple[Tensor, Tensor]:
        """:meth:`output`, and the scores before the softmax (B, heads, H, W, k_y * k_x) in slot order."""
        output, logits = self._run(want_logits=True)
        assert logits is not None
        return output, logits

    def chunks(self) -> list[list[list[Chunk]]]:
        """Chunks within the budget, nested by samples, tile rows and tile columns."""
        y, x, batch = self.y.plan, self.x.plan, self.queries.shape[0]
        pixels, cells, dims = y.tile * x.tile, y.union * x.union, self.key_dim + self.value_dim
        numbers = self.heads * (2 * pixels * (cells + dims) + cells * (dims + 2))
        count = self.memory // (numbers * self.queries.element_size())
        count = max(1, min(count, _LARGEST_BATCH // self.heads))
        columns = _slices(x.tiles, min(x.tiles, count))
        rows = _slices(y.tiles, max(1, min(y.tiles, count // x.tiles)))
        several = max(1, count // (x.tiles * y.tiles))
        # A traced graph may leave the batch unknown, and then cannot cut it.
        samples = _slices(batch, min(batch, several)) if are_known(batch) else [slice(0, batch)]
        return [[[(b, i, j) for j in columns] for i in rows] for b in samples]

    def region(self, chunk: Chunk) -> Chunk:
        """Samples, output rows and output columns of a chunk."""
        y, x = self.y.plan, self.x.plan
        samples, rows, columns = chunk
        return (
            samples,
            slice(rows.start * y.tile, min(rows.stop * y.tile, y.size)),
            slice(columns.start * x.tile, min(columns.stop * x.tile, x.size)),
        )

    def _run(self, want_logits: bool, into: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        tensors = (self.queries, self.keys, self.values)
        tracked = torch.is_grad_enabled() and any(t.requires_grad for t in tensors)
        if tracked or torch.compiler.is_compiling():
            rows = [
                [[self._attend(chunk, want_logits) for chunk in line] for line in block]
                for block in self.chunks()
            ]
            output = _join([[[part[0] for part in line] for line in block] for block in rows], (0, 1, 2))
            output = output if into is None else into.copy_(output)
            if not want_logits:
                return output, None
            return output, _join([[[p[1] for p in line] for line in block] for block in rows], (0, 2, 3))
        batch, height, width, _ = self.queries.shape
        output = into
        if output is None:
            output = self.values.new_empty(batch, height, width, self.out_channels, dtype=self.dtype)
        logits = None
        if want_logits:
            slots = self.y.slots.shape[-1] * self.x.slots.shape[-1]
            logits = self.queries.new_empty(batch, self.heads, height, width, slots)
        for chunk in (chunk for block in self.chunks() for line in block for chunk in line):
            samples, rows, columns = self.region(chunk)
            _, scores = self._attend(chunk, want_logits, output[samples, rows, columns])
            if logits is not None and scores is not None:
                logits[samples, :, rows, columns] = scores
        return output, logits

    def _attend(
        self, chunk: Chunk, want_logits: bool, target: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Output (samples, rows, columns, D) of a chunk, written to ``target`` if given, and logits on request."""
        y, x, heads = self.y.plan, self.x.plan, self.heads
        ny, nx = (s.stop - s.start for s in chunk[1:])
        queries, index = self._gather_queries(chunk), self._rows(chunk)
        keys, values = F.embedding(index, self.keys), F.embedding(index, self.values)
        bias, nearness, logits = self._sum(self.y.bias, self.x.bias, chunk), self._nearness(chunk), None
        if nearness is not None and not want_logits:
            bias, nearness = nearness if bias is None else bias + nearness, None
        if self.fused and self.weight is None and not want_logits:
            if bias is not None:
                bias = bias.repeat(chunk[0].stop - chunk[0].start, 1, 1)[:, None]
            operands = (t.unflatten(0, (-1, heads)) for t in (queries, keys, values))
            mixed = F.scaled_dot_product_attention(*operands, attn_mask=bias, scale=1.0)
        else:
            scores = torch.bmm(queries, keys.mT).unflatten(0, (-1, ny * nx, heads))
            if self.weight is not None:
                weights = self.weight(self.y.offset[chunk[1]], self.x.offset[chunk[2]])
                scores = scores * weights.flatten(0, 1)[:, None]
            if nearness is not None:  # belongs to the logits, which the number of slots does not
                scores.add_(nearness[:, None])
            if want_logits:
                logits = self._slots(scores, chunk)
            if bias is not None:
                scores.add_(bias[:, None])
            mixed = torch.bmm(scores.softmax(dim=-1).flatten(0, 2), values)
        # Back from (samples, tile rows, tile columns, heads, pixels, channels) to rows and columns.
        mixed = mixed.reshape(-1, ny, nx, heads, y.tile, x.tile, self.value_dim).permute(0, 1, 4, 2, 5, 3, 6)
        if target is not None and self.kept is None and target.shape[1:3] == (ny * y.tile, nx * x.tile):
            # One copy instead of two: the view splits the output's axes as the tiles do.
            target.unflatten(3, (heads, -1)).unflatten(2, (nx, -1)).unflatten(1, (ny, -1)).copy_(mixed)
            return target, logits
        mixed = mixed.flatten(5).flatten(3, 4).flatten(1, 2)
        if self.kept is not None:
            mixed = mixed.index_select(-1, self.kept)
        _, rows, columns = self.region(chunk)
        mixed = mixed[:, : rows.stop - rows.start, : columns.stop - columns.start]
        return mixed.to(self.dtype) if target is None else target.copy_(mixed), logits

    def _gather_queries(self, chunk: Chunk) -> Tensor:
        """Queries of a chunk: (operands, pixels, key_dim), an operand per (sample, tile row, tile column, head)."""
        y, x = self.y.plan, self.x.plan
        block = self.queries[self.region(chunk)]
        ny, nx = (s.stop - s.start for s in chunk[1:])
        spare_y, spare_x = ny * y.tile - block.shape[1], nx * x.tile - block.shape[2]
        if spare_y or spare_x:
            block = F.pad(block, (0, 0, 0, spare_x, 0, spare_y))
        block = block.reshape(-1, ny, y.tile, nx, x.tile, self.heads, self.key_dim)
        return block.permute(0, 1, 3, 5, 2, 4, 6).reshape(-1, y.tile * x.tile, self.key_dim)

    def _rows(self, chunk: Chunk) -> Tensor:
        """Rows of ``keys`` and ``values`` of each operand: (operands, cells)."""
        (h, w), device, samples = self.grid, self.queries.device, chunk[0]
        sample = torch.arange(samples.start, samples.stop, device=device).view(-1, 1, 1, 1, 1, 1)
        head = torch.arange(self.heads, device=device).view(1, 1, 1, -1, 1, 1)
        row = self.y.cells[chunk[1]][None, :, None, None, :, None]
        column = self.x.cells[chunk[2]][None, None, :, None, None, :]
        index = ((sample * h + row) * w + column) * self.heads + head
        return index.reshape(-1, self.y.plan.union * self.x.plan.union)

    def _nearness(self, chunk: Chunk) -> Tensor | None:
        """What the distance adds to the scores: (tiles, pixels, cells), or ``None``."""
        if self.locality is None:
            return None
        y, x = (decay(axis.offset, self.locality) for axis in (self.y, self.x))
        return self._sum(y, x, chunk)

    def _sum(self, y: Tensor | None, x: Tensor | None, chunk: Chunk) -> Tensor | None:
        """Tables of both axes added up for a chunk: (tiles, pixels, cells), or ``None`` where there is neither."""
        if y is None and x is None:
            return None
        ny, nx = (s.stop - s.start for s in chunk[1:])
        shape = (ny, nx, self.y.plan.tile, self.x.plan.tile, self.y.plan.union, self.x.plan.union)
        total = self.queries.new_zeros(())
        if y is not None:
            total = total + y[chunk[1]][:, None, :, None, :, None]
        if x is not None:
            total = total + x[chunk[2]][None, :, None, :, None, :]
        return total.expand(shape).flatten(4).flatten(2, 3).flatten(0, 1)

    def _slots(self, scores: Tensor, chunk: Chunk) -> Tensor:
        """Scores (samples, tiles, heads, pixels, cells) in slot order: (samples, heads, rows, columns, slots)."""
        y, x = self.y, self.x
        ny, nx = (s.stop - s.start for s in chunk[1:])
        row = y.slots[chunk[1]][:, None, :, None, :, None]
        column = x.slots[chunk[2]][None, :, None, :, None, :]
        index = (row * x.plan.union + column).flatten(4).flatten(2, 3).flatten(0, 1)
        picked = torch.take_along_dim(scores, index[None, :, None], dim=-1)
        picked = picked.reshape(-1, ny, nx, self.heads, y.plan.tile, x.plan.tile, index.shape[-1])
        picked = picked.permute(0, 3, 1, 4, 2, 5, 6).flatten(4, 5).flatten(2, 3)
        _, rows, columns = self.region(chunk)
        return picked[:, :, : rows.stop - rows.start, : columns.stop - columns.start]


def _join(blocks: list, dims: tuple[int, int, int]) -> Tensor:
    """Concatenate tensors nested by samples, rows and columns."""
    samples, rows, columns = dims
    return torch.cat([torch.cat([torch.cat(li, columns) for li in bl], rows) for bl in blocks], samples)

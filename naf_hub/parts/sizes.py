"""Sizes of maps in traced graphs, where they may be symbols: nothing here pins one to a number.

A comparison of a symbol becomes a condition of the graph, and a Python loop or list over one fixes it. Outside
tracing all sizes are plain numbers and these functions are what their names say.
"""

from __future__ import annotations

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

# CUDA's kernel of adaptive pooling counts in 32 bits.
LARGEST_POOLED = 2**31 - 1


def are_known(*sizes: int) -> bool:
    """Whether all sizes are numbers: always, outside the tracing of a graph with dynamic sizes."""
    if not torch.compiler.is_compiling():
        return True
    from torch.fx.experimental import symbolic_shapes

    if not hasattr(
        symbolic_shapes, "has_static_value"
    ):  # torch before 2.9, whose compiler then takes constants
        return not any(isinstance(size, torch.SymInt) for size in sizes)
    return all(symbolic_shapes.has_static_value(size) for size in sizes)


def are_equal(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether sizes are equal for sure: ``False`` also where it depends on the input of the graph."""
    if not torch.compiler.is_compiling():
        return tuple(one) == tuple(other)
    from torch.fx.experimental import symbolic_shapes

    if not hasattr(
        symbolic_shapes, "has_static_value"
    ):  # as above; 2.5 and 2.6 trace no statically_known_true
        return are_known(*one, *other) and tuple(one) == tuple(other)
    return all(symbolic_shapes.statically_known_true(a == b) for a, b in zip(one, other, strict=True))


def smaller(one: int, other: int) -> int:
    """The smaller of two sizes."""
    return min(one, other) if are_known(one, other) else cast("int", torch.sym_min(one, other))


def larger(one: int, other: int) -> int:
    """The larger of two sizes."""
    return max(one, other) if are_known(one, other) else cast("int", torch.sym_max(one, other))


def number(size: int, device: torch.device | str | None = None) -> Tensor:
    """A size as a tensor (): integer division by a symbol, or clamping to one, is nothing that ONNX takes."""
    return torch.full((), size, dtype=torch.int64, device=device)


def line(first: float, last: float, count: int, like: Tensor) -> Tensor:
    """``torch.linspace``, which takes no symbols, in the dtype and on the device of ``like``."""
    if are_known(count):
        return torch.linspace(first, last, count, dtype=like.dtype, device=like.device)
    place, end = torch.arange(count, device=like.device), number(count - 1, like.device)
    # Rounded once, as a fused multiply-add is: to the last bit, which LoftUp's sines amplify ten thousandfold.
    step = ((last - first) / end.to(like.dtype)).double()
    return torch.where(2 * place < end, first + step * place, last - step * (end - place)).to(like.dtype)


def crop(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """The first rows and columns (B, C, H, W) of larger maps; slicing by unknown sizes would compare them."""
    if are_known(*maps.shape[-2:], *size):
        return maps[:, :, : size[0], : size[1]]
    rows, columns = (torch.arange(side, device=maps.device) for side in size)
    return maps.index_select(2, rows).index_select(3, columns)


def average_pool(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``adaptive_avg_pool2d`` of (B, C, H, W) maps; with unknown sizes by one small matrix per axis, which compilers
    and ONNX take where they refuse the operator."""
    height, width = maps.shape[-2:]
    if are_known(*maps.shape, *size):
        numbers = len(maps) * max(height * width, size[0] * size[1])  # of a channel
        if numbers * maps.shape[1] > LARGEST_POOLED:
            return _pool_by_channels(maps, size, max(1, LARGEST_POOLED // numbers))
    if are_known(height, width, *size):
        if maps.is_cuda and height % size[0] == 0 and width % size[1] == 0:
            # The adaptive kernel takes ten times as long there for maps that are channels last.
            return F.avg_pool2d(maps, (height // size[0], width // size[1]))
        return F.adaptive_avg_pool2d(maps, size)
    rows, columns = pooling_matrix(height, size[0], maps), pooling_matrix(width, size[1], maps)
    return rows @ (maps @ columns.T)


def _pool_by_channels(maps: Tensor, size: tuple[int, int], step: int) -> Tensor:
    """``adaptive_avg_pool2d`` of so many channels at a time, channels last."""
    pooled = torch.empty(
        (*maps.shape[:2], *size), dtype=maps.dtype, device=maps.device, memory_format=torch.channels_last
    )
    for start in range(0, maps.shape[1], step):
        part = slice(start, start + step)
        pooled[:, part] = F.adaptive_avg_pool2d(maps[:, part].contiguous(), size)
    return pooled


def max_pool(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """``adaptive_max_pool2d`` of (B, C, H, W) maps; with unknown sizes axis by axis, by operators that ONNX has."""
    if are_known(*maps.shape, *size):
        return F.adaptive_max_pool2d(maps, size)
    return max_columns(max_columns(maps, size[1]).mT, size[0]).mT


def max_columns(maps: Tensor, n_out: int) -> Tensor:
    """Adaptive maxima along the last axis of maps, whatever is known of the sizes."""
    n_in, device = maps.shape[-1], maps.device
    wide, narrow = number(n_in, device), number(n_out, device)
    bins, cells = torch.arange(n_out, device=device), torch.arange(n_in, device=device)
    # Bins narrower than a cell hold their first and last cell alone; of others, a cell is in its first and last alone.
    first, last = bins * wide // narrow, ((bins + 1) * wide + narrow - 1) // narrow - 1
    found = torch.maximum(maps.index_select(-1, first), maps.index_select(-1, last))
    for of_cell in (cells * narrow // wide, ((cells + 1) * narrow + wide - 1) // wide - 1):
        found = found.scatter_reduce(-1, of_cell.expand(maps.shape), maps, "amax")
    return found


def nearest(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Nearest interpolation of (B, C, H, W) maps; with unknown sizes by its own arithmetic, which is not ONNX's."""
    height, width = maps.shape[-2:]
    if are_known(height, width, *size):
        return F.interpolate(maps, size)
    rows, columns = (
        nearest_places(n_in, n_out, maps.device) for n_in, n_out in ((height, size[0]), (width, size[1]))
    )
    return maps.index_select(2, rows).index_select(3, columns)


def nearest_places(n_in: int, n_out: int, device: torch.device) -> Tensor:
    """The indices (n_out,) that nearest interpolation takes along one axis."""
    if are_known(n_in, n_out):
        places = torch.arange(n_in, dtype=torch.float32, device=device)
        return F.interpolate(places[None, None], n_out)[0, 0].long()
    ratio = number(n_in, device).float() / number(n_out, device).float()
    places = (torch.arange(n_out, device=device).float() * ratio).floor().long()
    return torch.minimum(places, number(n_in - 1, device))


def resize_matrix(
    n_in: int,
    n_out: int,
    like: Tensor,
    outputs: tuple[int, int] | None = None,
    inputs: tuple[int, int] | None = None,
) -> Tensor:
    """(n_out, n_in) weights of bilinear resizing with antialias along one axis, half-pixel centres; else as
    :func:`pooling_matrix`."""
    ratio = number(n_in, like.device).double() / number(n_out, like.device).double()
    centres = (torch.arange(*(outputs or (0, n_out)), device=like.device).double() + 0.5) * ratio
    positions = torch.arange(*(inputs or (0, n_in)), device=like.device).double() + 0.5
    weights = (1 - (positions - centres[:, None]).abs() / ratio.clamp(min=1)).clamp(min=0)
    return (weights / weights.sum(1, keepdim=True)).to(like.dtype)


def pooling_matrix(
    n_in: int,
    n_out: int,
    like: Tensor,
    outputs: tuple[int, int] | None = None,
    inputs: tuple[int, int] | None = None,
) -> Tensor:
    """(n_out, n_in) weights of adaptive average pooling along one axis, dtype and device of ``like``; on request only
    some rows (``outputs``) and columns (``inputs``) of it."""
    bins = torch.arange(*(outputs or (0, n_out)), device=like.device)[:, None]
    wide, narrow = number(n_in, like.device), number(n_out, like.device)
    start, stop = bins * wide // narrow, ((bins + 1) * wide + narrow - 1) // narrow
    position = torch.arange(*(inputs or (0, n_in)), device=like.device)
    inside = (position >= start) & (position < stop)
    return inside.to(like.dtype) / (stop - start).to(like.dtype)

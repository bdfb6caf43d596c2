"""The guidance encoder in strips of rows, on CPUs such as stay in cache: for inference, where nothing is kept for
backward.

GroupNorm needs statistics of a whole map before any of it can be normalised. Each convolution is therefore
one sweep over strips: normalise and activate a strip of its input (with the statistics that the sweep before
collected), convolve, store, and collect the statistics of what was stored while it is still in cache. One map
beside the guidance is alive (two where blocks are residual), and no pass over a full map does anything else.

Maps may be in half precision, whatever the weights are in; statistics are float32 or better. On GPUs a strip is the
whole map where it fits. PyTorch's GroupNorm takes one block of threads for each group there, of which an image has
eight: its statistics alone took 20 of 28 milliseconds for 448 x 448 pixels on an H200.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.precision import autocast_off, working_dtype
from naf_hub.parts.sizes import average_pool

from .encoder import Branch, Conv, GuidanceEncoder
from .row_filter import TILE, RowFilter, convolve_strip, saves_products

# Numbers in a strip: 4 MiB in float32. Smaller strips measured no faster and pay more calls, larger ones leave cache.
CACHE_STRIP = 2**20


class Moments:
    """Mean and variance per channel of a map seen in strips.

    On CPUs those of each strip are taken in two passes (BatchNorm's, in one call and without a copy of the strip; its
    mean is summed in float32 and right to some 2e-6 of itself); elsewhere each row of a strip has its own, for a
    reduction to few numbers keeps few threads busy. They are combined as Chan et al. (1983) do, in float64: no
    cancellation in the variance, however far the mean lies from zero.
    """

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.means: list[Tensor] = []
        self.squares: list[Tensor] = []

    def add(self, strip: Tensor) -> None:
        """Take in a strip (..., W, C)."""
        if strip.device.type != "cpu":
            self.add_rows(strip.flatten(0, -3))
            return
        strip = strip.flatten(0, -2)
        # Running statistics are updated, too, and name the dtype of the results: half precision would be rounded.
        unused = strip.new_zeros(strip.shape[-1], dtype=working_dtype(strip.dtype))
        mean, variance = torch.batch_norm_update_stats(strip, unused, unused.clone(), 0.0)
        self.counts.append(len(strip))
        self.means.append(mean[None])
        self.squares.append((variance * len(strip))[None])

    def add_rows(self, strip: Tensor) -> None:
        """:meth:`add` of (rows, W, C), with moments of each row."""
        rows, width, _ = strip.shape
        dtype = working_dtype(strip.dtype)
        if strip.dtype == dtype:
            variance, mean = torch.var_mean(strip, dim=1, correction=0)
        else:  # no copy in float32: half precision has no digits that the difference of two sums could lose
            mean = strip.mean(dim=1, dtype=dtype)
            sizes = torch.linalg.vector_norm(strip, dim=1, dtype=dtype)
            variance = (sizes.square() / width - mean.square()).clamp_min(0)
        self.counts += [width] * rows
        self.means.append(mean)
        self.squares.append(variance * width)

    def affine(self, norm: nn.GroupNorm) -> tuple[Tensor, Tensor]:
        """GroupNorm as ``x * scale + shift`` per channel: two tensors (C,), float32 or better."""
        precise = torch.float32 if self.means[0].device.type == "mps" else torch.float64  # MPS has no float64
        means, squares = torch.cat(self.means).to(precise), torch.cat(self.squares).to(precise)
        total = sum(self.counts)
        # Counts that are all alike need no copy to a device.
        alike = len(set(self.counts)) == 1
        counts = self.counts[0] if alike else means.new_tensor(self.counts)[:, None]
        mean = (counts * means).sum(dim=0) / total
        variance = (squares.sum(dim=0) + (counts * (means - mean).square()).sum(dim=0)) / total
        mean, variance = (v.view(norm.num_groups, -1) for v in (mean, variance))
        centre = mean.mean(dim=1, keepdim=True)
        spread = variance.mean(dim=1, keepdim=True) + (mean - centre).square().mean(dim=1, keepdim=True)
        inverse = (spread + norm.eps).rsqrt().expand_as(mean).flatten()
        scale = norm.weight.to(precise) * inverse
        shift = norm.bias.to(precise) - centre.expand_as(mean).flatten() * scale
        dtype = working_dtype(norm.weight.dtype)
        return scale.to(dtype), shift.to(dtype)


def _activate(moments: Moments, norm: nn.GroupNorm) -> Callable[[Tensor, Tensor], None]:
    scale, shift = moments.affine(norm)
    zero, one = torch.zeros_like(scale), torch.ones_like(scale)

    def prepare(strip: Tensor, target: Tensor) -> None:
        if strip.dtype == scale.dtype or strip.device.type != "cpu":
            torch.addcmul(shift, strip, scale, out=target)
            F.silu(target, inplace=True)
            return
        # On CPUs a call of mixed dtypes copies each operand to new memory first; of those that do not, BatchNorm's is
        # the affine map.
        normed = F.batch_norm(strip.flatten(0, -2), zero, one, scale, shift, eps=0.0)
        torch.ops.aten.silu.out(normed.view_as(strip), out=target)

    return prepare


def _copy(strip: Tensor, target: Tensor) -> None:
    target.copy_(strip)


@dataclasses.dataclass
class Sweep:
    """One convolution from ``source`` (H, W, C_in) into ``target`` (H, W, C_out), strip by strip.

    Attributes:
        prepare: writes what is convolved, given a strip of the source.
        skip: added to the result; may be ``target`` itself.
        moments: what collects the statistics of the result.
    """

    conv: Conv
    source: Tensor
    target: Tensor
    prepare: Callable[[Tensor, Tensor], object] = _copy
    skip: Tensor | None = None
    moments: Moments | None = dataclasses.field(default_factory=Moments)

    def run(self, rows: int) -> Moments:
        step = _reflected if self.conv.kernel_size == (3, 3) else _pointwise
        step(self, rows)
        return self.moments or Moments()

    def store(self, rows: slice, result: Tensor) -> None:
        """Put a strip of the result in its place."""
        if self.skip is not None:
            result = result.add_(self.skip[rows])
        self.target[rows] = result
        self.stored(result)

    def stored(self, result: Tensor) -> None:
        """Take the statistics of a strip of the result, while it is in cache."""
        if self.moments is not None:
            self.moments.add(result)


def _pointwise(sweep: Sweep, rows: int) -> None:
    """Fill ``sweep.target`` by a 1x1 convolution."""
    conv, source, target = sweep.conv, sweep.source, sweep.target
    height, width, channels = source.shape
    weight, bias = (t.to(source.dtype) for t in (conv.weight.flatten(1).t(), cast("Tensor", conv.bias)))
    ready = source.new_empty(rows, width, channels)
    for top in range(0, height, rows):
        strip = slice(top, min(top + rows, height))
        lines = ready[: strip.stop - top]
        sweep.prepare(source[strip], lines)
        if sweep.skip is None and target.is_contiguous() and target.dtype == source.dtype:
            torch.addmm(bias, lines.view(-1, channels), weight, out=target[strip].flatten(0, 1))
            sweep.stored(target[strip])
        else:
            result = torch.addmm(bias, lines.view(-1, channels), weight)
            sweep.store(strip, result.view(len(lines), width, -1))


def _reflected(sweep: Sweep, rows: int) -> None:
    """Fill ``sweep.target`` by a 3x3 convolution with reflected borders."""
    conv, source = sweep.conv, sweep.source
    convolve = _convolution(conv, source)
    height, width, channels = source.shape
    rows = max(TILE, rows // TILE * TILE)
    # Row j of the buffer is row top - 1 + j of the source, with a column more on both sides.
    ready = source.new_empty(rows + 2, width + 2, channels)
    inner_y, inner_x = min(1, height - 1), min(1, width - 1)  # a side of one pixel is replicated
    for top in range(0, height, rows):
        stop = min(top + rows, height)
        first = 0
        if top > 0:
            ready[:2] = ready[rows : rows + 2]  # the last two rows of the strip before
            first = top + 1
        last = min(stop, height - 1)
        if first <= last:
            sweep.prepare(source[first : last + 1], ready[first - top + 1 : last - top + 2, 1:-1])
        if top == 0:
            ready[0] = ready[1 + inner_y]
        if stop == height:
            ready[stop - top + 1] = ready[stop - top - inner_y]
        ready[:, 0] = ready[:, 1 + inner_x]
        ready[:, -1] = ready[:, -2 - inner_x]
        sweep.store(slice(top, stop), convolve(ready[: stop - top + 2]))


def _convolution(conv: Conv, source: Tensor) -> Callable[[Tensor], Tensor]:
    """What convolves strips (H + 2, W + 2, C_in) of ``source`` to (H, W, C_out), both channels last."""
    weight, bias = conv.weight.to(source.dtype), cast("Tensor", conv.bias).to(source.dtype)
    if saves_products(weight):
        return RowFilter(weight, bias)
    return functools.partial(convolve_strip, weight=weight, bias=bias)


def stream_branch(
    branch: Branch, image: Tensor, target: Tensor, scratch: tuple[Tensor, Tensor], strip: int
) -> None:
    """One branch on one image (H_img, W_img, 3) into ``target`` (H, W, C), which may be a view.

    Both of ``scratch`` may be one map where no block is residual, and that the target where it has the image's size:
    a sweep has read a row before it stores anything there. A target of its own may have another dtype.
    """
    blocks = branch.blocks
    maps, between = scratch
    direct = target.shape == maps.shape
    rows = min(len(maps), max(2, strip // maps[0].numel()))
    final = target if direct else maps
    moments = Sweep(branch.stem, image, maps if blocks else final).run(rows)
    for number, block in enumerate(blocks, start=1):
        inner = Sweep(block.conv1, maps, between, _activate(moments, block.norm1)).run(rows)
        last = number == len(blocks)
        moments = Sweep(
            block.conv2,
            between,
            final if last else maps,
            _activate(inner, block.norm2),
            skip=maps if block.residual else None,
            moments=None if last else Moments(),
        ).run(rows)
    if not direct:
        pooled = average_pool(maps[None].permute(0, 3, 1, 2), (target.shape[0], target.shape[1]))
        target.copy_(pooled[0].permute(1, 2, 0))


def stream_guidance(
    encoder: GuidanceEncoder,
    image: Tensor,
    output_size: tuple[int, int],
    strip: int = CACHE_STRIP,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """What ``encoder(image, output_size)`` returns, to rounding, without gradients and in less memory.

    Args:
        encoder: its parameters may have any floating dtype.
        image: (B, 3, H_img, W_img), normalised, in the dtype that maps and convolutions are to have.
        output_size: (H, W) of the guidance.
        strip: numbers of a map to work on at a time.
        dtype: of the guidance; default that of the image.

    Returns:
        (B, C, H, W), channels last in memory.
    """
    branches = encoder.branches
    height, width = image.shape[-2:]
    guidance = image.new_empty(len(image), *output_size, encoder.width * len(branches), dtype=dtype)
    maps = [image.new_empty(height, width, encoder.width) for _ in range(scratch_maps(encoder))]
    with torch.no_grad(), autocast_off(image.device):
        for sample, target in zip(image.permute(0, 2, 3, 1), guidance, strict=True):
            for branch, part in zip(branches, target.split(encoder.width, dim=-1), strict=True):
                stream_branch(branch, sample, part, (maps[0], maps[-1]), strip)
    return guidance.permute(0, 3, 1, 2)


def scratch_maps(encoder: GuidanceEncoder) -> int:
    """Maps of a branch at the image's size that :func:`stream_guidance` holds beside the guidance."""
    return 2 if any(block.residual for branch in encoder.branches for block in branch.blocks) else 1

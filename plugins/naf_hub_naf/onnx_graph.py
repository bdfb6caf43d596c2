"""NAF with unknown sizes in the operators that onnxruntime computes fast on CPUs: the same values, to rounding.

A file has no strips that stay in cache (:mod:`.strips`), so every pass over a whole map counts. Therefore maps stay
(B, C, H, W) throughout, GroupNorm is one pass behind its statistics (its own operator there takes four), biases before
it take none, and what cuts the output into tiles and back moves runs of neighbours. 3x3 convolutions save half of their
products as in :mod:`.row_filter`; the sums before and behind are products with small constant matrices, a pass each.

The variance of a channel is the difference of two sums here, in float32: three digits are left of it where the mean is
a hundred times the deviation. In PyTorch it is exact; one more pass over each map would be the price of that here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.parts.sizes import are_equal, average_pool, number

from .any_size import TILE, axis_tables
from .attention import split_heads
from .encoder import Branch, Conv, GuidanceEncoder, pad_one
from .row_filter import FAR, KERNELS, NEAR, saves_products
from .row_filter import TILE as ROWS
from .spatial import decay

if TYPE_CHECKING:
    from .model import NAF
    from .rope import RoPE

# Sums of six rows of the input, in the order of KERNELS, and of six convolved ones: row_filter has them step by step.
_BEFORE = [
    [1.0, 0.0, -2.5, 0.0, 1.0, 0.0],
    *([0.0, -2 * point, -2.0, point, 1.0, 0.0] for point in (NEAR, -NEAR)),
    *([0.0, -0.5 * point, -0.5, point, 1.0, 0.0] for point in (FAR, -FAR)),
    [0.0, 1.0, 0.0, -2.5, 0.0, 1.0],
]
_POINTS = (NEAR, -NEAR, FAR, -FAR)
_BEHIND = [
    [float(power == 0), *(point**power for point in _POINTS), float(power == ROWS - 1)]
    for power in range(ROWS)
]


def encode(encoder: GuidanceEncoder, image: Tensor, output_size: tuple[int, int]) -> Tensor:
    """What ``encoder(image, output_size)`` returns."""
    maps = torch.cat([_branch(branch, image) for branch in encoder.branches], dim=1)
    return maps if are_equal(maps.shape[-2:], output_size) else average_pool(maps, output_size)


def _branch(branch: Branch, image: Tensor) -> Tensor:
    maps, bias = branch.stem(image), None
    for block in branch.blocks:
        between = _convolve(block.conv1, F.silu(_normalize(block.norm1, maps, bias)))
        made = _convolve(block.conv2, F.silu(_normalize(block.norm2, between, block.conv1.bias)))
        if block.residual:
            made = maps + made if bias is None else maps + made + bias[:, None, None]
        maps, bias = made, block.conv2.bias
    return maps if bias is None else maps + bias[:, None, None]


def _normalize(norm: nn.GroupNorm, maps: Tensor, bias: Tensor | None) -> Tensor:
    """GroupNorm of maps to which ``bias`` is to be added, which takes no pass of its own: as the BatchNorm of B * C
    channels that have the statistics of their groups."""
    batch, channels, height, width = maps.shape
    mean = maps.mean((2, 3))
    size = torch.linalg.vector_norm(maps, dim=(2, 3)).square() / (number(height) * number(width))
    within = (size - mean.square()).clamp(min=0).unflatten(1, (norm.num_groups, -1))
    added = torch.zeros_like(mean) if bias is None else bias.expand(batch, channels)
    mean = (mean + added).unflatten(1, (norm.num_groups, -1))
    centre = mean.mean(2, keepdim=True)
    variance = within.mean(2, keepdim=True) + (mean - centre).square().mean(2, keepdim=True)
    centre, variance = (part.expand(mean.shape).flatten() for part in (centre, variance))
    scale, shift = (part.expand(batch, channels).flatten() for part in (norm.weight, norm.bias))
    maps = maps.reshape(1, batch * channels, height, width)
    centre = centre - added.flatten()
    return F.batch_norm(maps, centre, variance, scale, shift, eps=norm.eps).reshape(
        batch, channels, height, width
    )


def _convolve(conv: Conv, maps: Tensor) -> Tensor:
    """``conv(maps)`` without its bias."""
    batch, _, height, width = maps.shape
    if conv.kernel_size == (1, 1):
        # As a product: a convolution would have maps reordered before and behind.
        return (conv.weight.flatten(1) @ maps.flatten(2)).reshape(batch, -1, height, width)
    if not saves_products(conv.weight):
        return F.conv2d(pad_one(maps), conv.weight)
    return _filter_rows(conv, F.pad(maps, (1, 1, 0, 0), mode="reflect"))


def _filter_rows(conv: Conv, maps: Tensor) -> Tensor:
    """A 3x3 convolution of maps with a column more on both sides, rows reflected at the border."""
    batch, channels, height, wide = maps.shape
    before, behind, kernels = (maps.new_tensor(table) for table in (_BEFORE, _BEHIND, KERNELS))
    count, sums = (height + ROWS - 1) // ROWS, len(KERNELS)
    # Row s of every tile comes before row s + 1 of the first, so that a sum of rows is one product for a whole channel.
    rows = (
        torch.arange(count, device=maps.device) * ROWS
        + torch.arange(-1, sums - 1, device=maps.device)[:, None]
    )
    last = number(height - 1, maps.device)
    rows = torch.minimum(last - (last - rows.abs()).abs(), last).clamp(min=0).flatten()
    taken = maps.index_select(2, rows).reshape(batch, channels, sums, count * wide)
    mixed = (before @ taken).transpose(1, 2).reshape(batch, sums * channels, count, wide)
    weight = (kernels @ conv.weight).permute(2, 0, 1, 3).reshape(-1, channels, 1, 3)
    made = F.conv2d(mixed, weight, groups=sums)
    made = behind @ made.reshape(batch, sums, conv.out_channels * count * (wide - 2))
    made = made.reshape(batch, ROWS, conv.out_channels, count, wide - 2).permute(0, 2, 3, 1, 4)
    made = made.reshape(batch, conv.out_channels, count * ROWS, wide - 2)
    return made.index_select(2, torch.arange(height, device=maps.device))


def rotate(rope: RoPE, maps: Tensor) -> Tensor:
    """What ``rope`` makes of maps (B, C, H, W) in evaluation."""
    batch, channels, height, width = maps.shape
    rows, columns = (angles.mT for angles in rope.angles(height, width))
    pairs = rows.shape[0], height, width
    angles = torch.cat([rows[:, :, None].expand(pairs), columns[:, None].expand(pairs)])
    cos, sin = angles.cos(), angles.sin()
    half = channels // rope.heads // 2
    place = torch.arange(channels, device=maps.device)
    other = maps.index_select(1, torch.where(place % (2 * half) < half, place + half, place - half))
    heads = batch, rope.heads, 2 * half, height, width
    turned = maps.reshape(heads) * torch.cat([cos, cos]) + other.reshape(heads) * torch.cat([-sin, sin])
    return turned.reshape(maps.shape)


def filter_maps(model: NAF, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
    """:meth:`NAF.filter <naf_hub_naf.model.NAF.filter>` of an image that is already of the size to encode."""
    queries = encode(model.image_encoder, image, output_size)
    rope = model.image_encoder.rope
    if rope is not None:
        queries = rotate(rope, queries)
    keys = model.pool(queries, (features.shape[-2], features.shape[-1]))
    return _attend(model, queries, keys, features)


def _attend(model: NAF, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Operands and result (B, C, H, W)."""
    batch, channels, height, width = queries.shape
    heads, dim, dtype = model.num_heads, channels // model.num_heads, values.dtype
    (h, w), device = keys.shape[-2:], queries.device
    y, x = (
        axis_tables(cells, size, model.kernel_size, queries, tight=True)
        for cells, size in ((h, height), (w, width))
    )
    rows, columns = y.cells.shape[0], x.cells.shape[0]
    place = (y.cells[:, None, :, None] * number(w, device) + x.cells[:, None]).flatten()
    groups, kept = split_heads(values.to(queries.dtype).permute(0, 2, 3, 1), heads)
    groups = groups.flatten(1, 2).transpose(1, 2)
    named = keys.reshape(batch, heads, dim, h * w).mT * dim**-0.5
    cells = y.cells.shape[1] * x.cells.shape[1]

    def take(found: Tensor) -> Tensor:
        """(B, heads, h * w, n) at the cells of every tile: (B, heads, tiles, cells, n)."""
        return found.index_select(2, place).reshape(batch, heads, rows * columns, cells, found.shape[-1])

    size = rows * TILE, columns * TILE
    tiles = F.pad(queries, (0, size[1] - width, 0, size[0] - height))
    tiles = tiles.reshape(batch, heads, dim, rows, TILE, columns, TILE).permute(0, 1, 3, 5, 2, 4, 6)
    tiles = tiles.reshape(batch, heads, rows * columns, dim, TILE * TILE)
    scores = tiles.mT @ take(named).mT
    if model.distance is not None:
        scores = scores * model.distance(y.offset, x.offset).flatten(0, 1)
    along_y, along_x = (
        axis.bias if model.locality is None else axis.bias + decay(axis.offset, model.locality)
        for axis in (y, x)
    )
    bias = along_y[:, None, :, None, :, None] + along_x[None, :, None, :, None, :]
    scores = scores + bias.flatten(4, 5).flatten(2, 3).flatten(0, 1)
    mixed = take(groups).mT @ scores.softmax(-1).mT
    mixed = mixed.reshape(batch, heads, rows, columns, groups.shape[-1], TILE, TILE).permute(
        0, 1, 4, 2, 5, 3, 6
    )
    mixed = mixed.reshape(batch, heads * groups.shape[-1], *size)
    mixed = mixed[:, :, :height, :width]
    return (mixed if kept is None else mixed.index_select(1, kept)).to(dtype)

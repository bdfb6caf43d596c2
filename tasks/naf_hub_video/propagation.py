"""Labels carried from frame to frame by the likeness of features (DINO, Caron et al. 2021, appendix; NAF, B.2)."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub.parts.budget import working_memory

from .video_protocol import VideoProtocol


class Propagation:
    """The first frame and the last ones of a video, from which labels are carried to the next.

    Args:
        features: (C, h, w) of the first frame.
        labels: (K, h, w) of the first frame, one-hot.
        protocol: ``context``, ``topk``, ``radius`` and ``temperature``.
        memory: bytes that affinities may take at a time; default what suits the device.
    """

    def __init__(
        self, features: Tensor, labels: Tensor, protocol: VideoProtocol, memory: int | None = None
    ) -> None:
        self.protocol = protocol
        self.memory = memory
        self.first = (F.normalize(features, dim=0), labels)
        self.last: deque[tuple[Tensor, Tensor]] = deque(maxlen=protocol.context)

    def step(self, features: Tensor) -> Tensor:
        """Soft labels (K, h, w) of the next frame, of its features (C, h, w)."""
        target = F.normalize(features, dim=0)
        context = [self.first, *self.last]
        labels = carry_labels(
            target, [f for f, _ in context], [s for _, s in context], self.protocol, self.memory
        )
        self.last.append((target, labels))
        return labels


def carry_labels(
    target: Tensor,
    features: Sequence[Tensor],
    labels: Sequence[Tensor],
    protocol: VideoProtocol,
    memory: int | None = None,
) -> Tensor:
    """Labels of a frame as the weighted mean of those of the most similar cells nearby in earlier frames.

    Weights are ``exp(cosine / temperature)``, without a softmax; of all earlier frames together only the ``topk``
    largest of a cell stay, and all that equal the smallest of these. Affinities are computed for a tile of cells at a
    time and with what its window reaches alone, so that what they take does not grow with the frame's area squared.

    Args:
        target: (C, h, w), of unit length over channels.
        features: those of the earlier frames, likewise.
        labels: (K, h, w) of each of them.
        protocol: ``topk``, ``radius`` and ``temperature``.
        memory: bytes that affinities may take at a time.

    Returns:
        (K, h, w).
    """
    height, width = target.shape[1:]
    budget = working_memory(memory, target.device.type)
    side = tile_side(height, width, protocol.radius, len(features), budget)
    result = torch.empty_like(labels[0])
    for top, left in itertools.product(range(0, height, side), range(0, width, side)):
        rows, columns = slice(top, min(height, top + side)), slice(left, min(width, left + side))
        near_rows, near_columns = (
            _reach(rows, height, protocol.radius),
            _reach(columns, width, protocol.radius),
        )
        cells = target[:, rows, columns].flatten(1).T
        near = [f[:, near_rows, near_columns].flatten(1) for f in features]
        affinity = cells.new_empty(len(near), cells.shape[0], near[0].shape[1])
        for one, earlier in zip(affinity, near, strict=True):
            torch.mm(cells, earlier, out=one)
        affinity.div_(protocol.temperature).exp_()
        if protocol.radius:
            far = _outside(rows, near_rows, columns, near_columns, protocol.radius, target.device)
            affinity.masked_fill_(far, 0)
        keep_largest(affinity, protocol.topk)
        affinity /= affinity.sum((0, 2), keepdim=True)
        found = torch.zeros(cells.shape[0], len(result), dtype=result.dtype, device=result.device)
        for weights, earlier in zip(affinity, labels, strict=True):
            found += weights @ earlier[:, near_rows, near_columns].flatten(1).T
        result[:, rows, columns] = found.T.reshape(-1, rows.stop - top, columns.stop - left)
    return result


def tile_side(height: int, width: int, radius: int, frames: int, budget: int) -> int:
    """Side of the square tiles of a grid whose affinities with so many frames fit the budget in bytes; at least 1.

    A tile not larger than the radius looks at few cells that most of its own do not reach.
    """
    side = max(radius, 8) if radius else max(height, width)
    while side > 1:
        near = [length if not radius else min(length, side + 2 * radius) for length in (height, width)]
        if 4 * frames * min(side, height) * min(side, width) * near[0] * near[1] <= budget:
            break
        side -= max(1, side // 8)
    return side


def keep_largest(affinity: Tensor, count: int) -> None:
    """Set to 0, in place, what is less than the ``count``-th largest over frames and cells of (frames, n, cells)."""
    per_frame = affinity.topk(min(count, affinity.shape[2]), sorted=False).values
    together = per_frame.transpose(0, 1).flatten(1)
    least = together.topk(min(count, together.shape[1])).values[:, -1]
    affinity.masked_fill_(affinity < least[:, None], 0)


def _reach(cells: slice, length: int, radius: int) -> slice:
    return (
        slice(max(0, cells.start - radius), min(length, cells.stop + radius)) if radius else slice(0, length)
    )


def _outside(
    rows: slice, near_rows: slice, columns: slice, near_columns: slice, radius: int, device: torch.device
) -> Tensor:
    """Whether each cell near a tile (second axis) is beyond the window of each of the tile's cells (first axis)."""

    def along(cells: slice, near: slice) -> Tensor:
        a = torch.arange(cells.start, cells.stop, device=device)
        b = torch.arange(near.start, near.stop, device=device)
        return (a[:, None] - b[None]).abs() > radius

    either = along(rows, near_rows)[:, None, :, None] | along(columns, near_columns)[None, :, None, :]
    return either.flatten(2).flatten(0, 1)

"""Filter a map piece by piece, so that what a filter needs beside its result stays small."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .sizes import are_known

# Temporaries of one piece; the processor's cache is smaller, but shorter pieces cost more in calls.
WORKING_BYTES = 32 * 2**20

Range = tuple[int, int]


def split(size: int, step: int) -> list[Range]:
    """``[(0, step), (step, 2 * step), ...]`` up to ``size``; one range where either is unknown."""
    if not are_known(size, step):
        return [(0, size)]
    step = max(1, min(step, size))
    return [(start, min(start + step, size)) for start in range(0, size, step)]


def split_channels(shape: Sequence[int], values_per_channel: int, itemsize: int) -> list[Range]:
    """Ranges of channels whose temporaries, ``values_per_channel`` numbers a channel, fit the working set; all
    channels in one where sizes are unknown."""
    if not are_known(*shape, values_per_channel):
        return [(0, shape[1])]
    return split(shape[1], WORKING_BYTES // max(1, shape[0] * values_per_channel * itemsize))


def assemble(
    compute: Callable[[Range, Range, Range], Tensor],
    shape: tuple[int, int, int, int],
    features: Tensor,
    inputs: Sequence[Tensor] = (),
    *,
    channels: Sequence[Range] | None = None,
    rows: Sequence[Range] | None = None,
    cols: Sequence[Range] | None = None,
) -> Tensor:
    """A (B, C, H, W) map of ``compute(channels, rows, cols)`` pieces, dtype and device of ``features``.

    Where a gradient is wanted for ``features`` or any of ``inputs``, each piece is recomputed in the
    backward pass, and the pieces are joined at the end: two to three times the result, beside one piece.
    A traced graph keeps no such bound.
    """
    channels, rows, cols = channels or [(0, shape[1])], rows or [(0, shape[2])], cols or [(0, shape[3])]
    tracing = torch.compiler.is_compiling()
    tracked = torch.is_grad_enabled() and any(t.requires_grad for t in (features, *inputs))

    def piece(c: Range, y: Range, x: Range) -> Tensor:
        if tracked and not tracing:
            result = checkpoint(compute, c, y, x, use_reentrant=False, preserve_rng_state=False)
        else:
            result = compute(c, y, x)
        assert isinstance(result, Tensor)
        return result.to(features.dtype)

    if tracked or tracing:
        return _cat([_cat([_cat([piece(c, y, x) for x in cols], 3) for y in rows], 2) for c in channels], 1)
    out = torch.empty(shape, dtype=features.dtype, device=features.device)
    for c in channels:
        for y in rows:
            for x in cols:
                out[:, slice(*c), slice(*y), slice(*x)] = piece(c, y, x)
    return out


def _cat(pieces: list[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim)

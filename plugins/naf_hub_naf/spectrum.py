"""The logits of a window by frequency (NAF, arXiv 2511.18452, appendix A).

A pair of guidance channels G that turns with the phase Phi adds to the logit of pixel p and cell q the mean, over the
pixels q' of the cell, of

    (G_p . G_q') cos(dPhi) - (G_p x G_q') sin(dPhi),    dPhi = Phi(q') - Phi(p),

a wave whose amplitude is ``|G_p| |G_q'|``. Keys are means of rotated queries, so that the products of rotated pairs
give it exactly.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from naf_hub.parts.sizes import average_pool

from .model import NAF
from .query_window import QueryWindow
from .rope import RoPE


@dataclasses.dataclass(frozen=True)
class Spectrum:
    """The logits of a window by axis and frequency. Axis 0 is vertical, 1 horizontal; frequencies fall.

    Attributes:
        wavelengths: (2, P) in cells of the axis, from the shortest to the longest.
        contributions: (heads, groups, 2, P, k_y, k_x), of each pair of channels; a head has several groups of pairs
            where the encoding has more heads than the attention.
        amplitudes: (heads, groups, 2, P): ``|G_p| |G_q'|``, mean over the pixels q' under the window, scaled as logits.
        nearness: (k_y, k_x): what ``locality`` adds to the logits of every head, which is no wave; else zeros.
    """

    wavelengths: Tensor
    contributions: Tensor
    amplitudes: Tensor
    nearness: Tensor

    def bands(self) -> Tensor:
        """(heads, 2, P, k_y, k_x): of each axis and frequency. Their sum and ``nearness`` are the logits."""
        return self.contributions.sum(1)

    def up_to(self, count: int) -> Tensor:
        """(heads, k_y, k_x): logits of ``nearness`` and the ``count`` lowest frequencies of both axes alone."""
        bands = self.bands().sum(1)
        return bands[:, bands.shape[1] - count :].sum(1) + self.nearness

    def strongest_pair(self) -> tuple[int, int, int, int]:
        """Head, group, axis and frequency of the pair that varies most over the window."""
        spread = self.contributions.flatten(4).std(dim=-1)
        return tuple(int(n) for n in torch.unravel_index(spread.argmax(), spread.shape))  # pyright: ignore


@dataclasses.dataclass(frozen=True)
class PairMaps:
    """One pair of channels at a query p: dot and cross product of its guidance with that of every pixel.

    Attributes:
        dot: (H, W), ``G_p . G_q``.
        cross: (H, W), ``G_p x G_q``.
        dot_cells: (h, w), mean over the pixels of each cell.
        cross_cells: (h, w), likewise.
    """

    dot: Tensor
    cross: Tensor
    dot_cells: Tensor
    cross_cells: Tensor


@dataclasses.dataclass(frozen=True)
class Rotation:
    """Phase between the pixel and each slot of its window, mean over the pixels of the slot's cell, by frequency.

    Attributes:
        cos_y, sin_y: (P, k_y) of pairs that turn with rows.
        cos_x, sin_x: (P, k_x) of pairs that turn with columns.
    """

    cos_y: Tensor
    sin_y: Tensor
    cos_x: Tensor
    sin_x: Tensor

    def mean_cos(self) -> Tensor:
        """(k_y, k_x): mean of cos(dPhi) over all channels."""
        return (self.cos_y.mean(0)[:, None] + self.cos_x.mean(0)) / 2

    def mean_sin(self) -> Tensor:
        """(k_y, k_x): mean of sin(dPhi) over all channels."""
        return (self.sin_y.mean(0)[:, None] + self.sin_x.mean(0)) / 2


def rotary_of(model: NAF) -> RoPE:
    """The rotary encoding of a model whose heads it divides.

    Raises:
        ValueError: the model has none, or pairs of its channels lie in two heads.
    """
    rope = model.image_encoder.rope
    if rope is None:
        raise ValueError("a spectrum needs rotary encoding: this model was made with another spatial=")
    if rope.heads % model.num_heads:
        raise ValueError(
            f"a spectrum needs pairs of channels within heads: rope_heads={rope.heads} is no multiple of "
            f"num_heads={model.num_heads}"
        )
    return rope


def _pairs(model: NAF, maps: Tensor) -> Tensor:
    """(..., C) as (..., heads, groups, 2 of a pair, 2 axes, P)."""
    rope = rotary_of(model)
    shape = (model.num_heads, rope.heads // model.num_heads, 2, 2, len(rope.periods))
    return maps.unflatten(-1, shape)


@torch.no_grad()
def spectrum(model: NAF, window: QueryWindow) -> Spectrum:
    """The logits of a window by frequency.

    Raises:
        ValueError: see :func:`rotary_of`.
    """
    y, x = window.at
    scale = (window.queries.shape[-1] // model.num_heads) ** -0.5
    query = _pairs(model, window.queries[y, x])
    keys = _pairs(model, window.keys[window.rows][:, window.columns])
    contributions = (query * keys).sum(-3) * scale
    rows, columns = window.pixels()
    # Rotation keeps lengths: those of queries are those of the guidance.
    around = _pairs(model, window.queries[rows, columns]).norm(dim=-3)
    amplitudes = query.norm(dim=-3) * around.mean((0, 1)) * scale
    cells = torch.tensor(window.grid, device=query.device, dtype=query.dtype)
    wavelengths = rotary_of(model).periods.to(query) * cells[:, None] / 2  # coordinates go from -1 to 1
    contributions = contributions.permute(2, 3, 4, 5, 0, 1)
    return Spectrum(wavelengths, contributions, amplitudes, window.nearness(model.locality))


@torch.no_grad()
def rotation(model: NAF, window: QueryWindow) -> Rotation:
    """Phase between the pixel of a window and its slots.

    Raises:
        ValueError: see :func:`rotary_of`.
    """
    found = []
    for angles, place, slots, cells in zip(
        rotary_of(model).angles(*window.size), window.at, (window.rows, window.columns), window.grid,
        strict=True,
    ):  # fmt: skip
        turned = (angles - angles[place]).T[None, :, :, None]  # (1, P, pixels, 1)
        found += [average_pool(wave, (cells, 1))[0, :, slots, 0] for wave in (turned.cos(), turned.sin())]
    return Rotation(*found)


@torch.no_grad()
def pair_maps(model: NAF, window: QueryWindow, pair: tuple[int, int, int, int]) -> PairMaps:
    """Dot and cross product of one pair of channels with every pixel.

    Args:
        pair: head, group, axis and frequency, as :meth:`Spectrum.strongest_pair` gives them.

    Raises:
        ValueError: see :func:`rotary_of`.
    """
    head, group, axis, frequency = pair
    turned = _pairs(model, window.queries)[:, :, head, group, :, axis, frequency]
    angles = rotary_of(model).angles(*window.size)[axis][:, frequency].to(turned)
    angles = angles[:, None] if axis == 0 else angles[None]
    a, b = turned.unbind(-1)
    # Turned back to what the guidance was before its rotation by place.
    a, b = a * angles.cos() + b * angles.sin(), b * angles.cos() - a * angles.sin()
    y, x = window.at
    dot, cross = a[y, x] * a + b[y, x] * b, a[y, x] * b - b[y, x] * a
    pooled = average_pool(torch.stack((dot, cross))[None], window.grid)[0]
    return PairMaps(dot, cross, pooled[0], pooled[1])

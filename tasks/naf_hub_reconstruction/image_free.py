"""The image-free ceiling: the best linear upsampler that never sees the image, fitted by least squares.

An error below bilinear's does not show that guidance helps, since averaging over neighbours lowers it too. No linear
filter that is the same everywhere and blind to the image can do better than this one on the pictures it was fitted
to, so that what is gained over it comes from the image (or from filtering that differs by content).

Its kernels may shrink features towards zero and subtract neighbours, which attention cannot: its outputs are averages.
The convex ceiling has weights of attention, none negative and their sum 1: the best that a method which averages, such
as NAF, can do blind to the image.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub import Promises, Upsampler
from naf_hub.interfaces import StandIn

KERNEL = 9
"""Cells per side of the window, as many as the released NAF attends to."""
CONVEX_STEPS = 3000


class Axis(NamedTuple):
    """Where the output positions of one axis lie on the grid of the input.

    Attributes:
        cells: (size,) cell that holds the centre of each position.
        phases: (size,) which of the places within a cell that is, counted from 0.
        phase_count: number of phases; at a whole ratio, the ratio.
    """

    cells: Tensor
    phases: Tensor
    phase_count: int


def place(cells: int, size: int) -> Axis:
    """The positions of an axis of ``size`` on a grid of ``cells``; at ratios that are not whole, phases are rounded."""
    count = max(1, round(size / cells))
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) * cells / size
    below = centre.floor().clamp(max=cells - 1)
    return Axis(below.long(), ((centre - below) * count).long().clamp(max=count - 1), count)


class ImageFree(StandIn):
    """A ``KERNEL`` x ``KERNEL`` kernel for each place within a cell, shared by all channels; the image is ignored.

    Args:
        like: the upsampler in whose place it stands.
        kernels: (phases on y, phases on x, KERNEL * KERNEL).
    """

    guided = False

    def __init__(self, like: Upsampler, kernels: Tensor) -> None:
        super().__init__(like)
        self.promises = Promises(linear_groups=1, constant=False)
        self.origin = None
        self.kernels = nn.Buffer(kernels)

    def upsample(self, image: Tensor, features: Any, output_size: tuple[int, int]) -> Tensor:
        low = self.reference(features)
        rows, columns = (place(c, s) for c, s in zip(low.shape[-2:], output_size, strict=True))
        if (rows.phase_count, columns.phase_count) != self.kernels.shape[:2]:
            raise ValueError(
                f"fitted for a ratio of {self.kernels.shape[0]} x {self.kernels.shape[1]}, asked for "
                f"{rows.phase_count} x {columns.phase_count}"
            )
        windows = neighbourhoods(low)
        output = low.new_empty(*low.shape[:2], *output_size)
        for i in range(rows.phase_count):
            for j in range(columns.phase_count):
                found = torch.einsum("bckhw,k->bchw", windows, self.kernels[i, j].to(low.dtype))
                y, x = ((axis.phases == n).nonzero()[:, 0] for axis, n in ((rows, i), (columns, j)))
                output[:, :, y[:, None], x] = found[:, :, rows.cells[y][:, None], columns.cells[x]]
        return output


def neighbourhoods(maps: Tensor) -> Tensor:
    """The window around each cell of (B, C, h, w), borders repeated: (B, C, KERNEL * KERNEL, h, w)."""
    batch, channels, h, w = maps.shape
    padded = F.pad(maps, (KERNEL // 2,) * 4, mode="replicate")
    return F.unfold(padded, KERNEL).view(batch, channels, KERNEL * KERNEL, h, w)


class LeastSquares:
    """Sums over pictures from which the kernels follow; pictures may differ in size, not in ratio."""

    def __init__(self) -> None:
        self.gram: Tensor | None = None
        self.moment: Tensor | None = None

    def add(self, low: Tensor, target: Tensor) -> None:
        """Take up one picture: reference features (1, C, h, w) of the input and (1, C, H, W) of the target."""
        rows, columns = (place(c, s) for c, s in zip(low.shape[-2:], target.shape[-2:], strict=True))
        windows = neighbourhoods(low.double()).transpose(1, 2)[0]  # taps, channels, h, w
        taps = len(windows)
        if self.gram is None or self.moment is None:
            self.gram = low.new_zeros(rows.phase_count, columns.phase_count, taps, taps, dtype=torch.float64)
            self.moment = low.new_zeros(rows.phase_count, columns.phase_count, taps, dtype=torch.float64)
        last: tuple[tuple[Tensor, Tensor], Tensor, Tensor] | None = None
        for i in range(rows.phase_count):
            for j in range(columns.phase_count):
                y, x = ((axis.phases == n).nonzero()[:, 0] for axis, n in ((rows, i), (columns, j)))
                cells = (rows.cells[y], columns.cells[x])
                # At whole ratios every phase looks at the same cells.
                if last is None or not all(torch.equal(a, b) for a, b in zip(last[0], cells, strict=True)):
                    seen = windows[:, :, cells[0][:, None], cells[1]].flatten(1)
                    last = (cells, seen, seen @ seen.T)
                _, seen, gram = last
                wanted = target[0, :, y[:, None], x].double().flatten()
                self.gram[i, j] += gram
                self.moment[i, j] += seen @ wanted

    def kernels(self) -> Tensor:
        """(phases on y, phases on x, KERNEL * KERNEL), float32.

        Raises:
            ValueError: nothing was added.
        """
        gram, moment = self._sums()
        # A grid narrower than the window repeats its border cells: the sums are then singular, and the ridge chooses.
        scale = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
        ridge = 1e-9 * scale * torch.eye(gram.shape[-1], dtype=torch.float64, device=gram.device)
        return torch.linalg.solve(gram + ridge, moment).float()

    def convex_kernels(self) -> Tensor:
        """As :meth:`kernels`, but no weight is negative and those of a kernel sum to 1.

        Accelerated projected gradients (Beck and Teboulle, 2009) on the simplex.

        Raises:
            ValueError: nothing was added.
        """
        gram, moment = self._sums()
        step = 1 / torch.linalg.eigvalsh(gram)[..., -1:].clamp(min=1e-30)
        weights = ahead = torch.full_like(moment, 1 / moment.shape[-1])
        momentum = 1.0
        for _ in range(CONVEX_STEPS):
            slope = (gram @ ahead[..., None])[..., 0] - moment
            new = to_simplex(ahead - step * slope)
            if torch.equal(new, weights):
                break
            faster = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
            ahead = new + (momentum - 1) / faster * (new - weights)
            weights, momentum = new, faster
        return weights.float()

    def _sums(self) -> tuple[Tensor, Tensor]:
        if self.gram is None or self.moment is None:
            raise ValueError("no picture to fit the image-free ceiling to")
        return self.gram, self.moment


def to_simplex(points: Tensor) -> Tensor:
    """The nearest points (..., n) whose entries are not negative and sum to 1 (Duchi et al., 2008, figure 1)."""
    ordered = points.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - 1
    count = torch.arange(1, points.shape[-1] + 1, dtype=points.dtype, device=points.device)
    kept = (ordered > excess / count).sum(-1, keepdim=True)
    return (points - excess.gather(-1, kept - 1) / kept).clamp(min=0)

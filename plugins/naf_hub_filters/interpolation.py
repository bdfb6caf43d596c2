"""Interpolation that ignores the image: nearest, bilinear, bicubic, Lanczos."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub import Promises, Upsampler
from naf_hub.parts.pieces import Range, assemble, split_channels
from naf_hub.parts.precision import without_autocast, working_dtype
from naf_hub.parts.sizes import larger

from .borders import take

MODES = ("nearest-exact", "nearest", "bilinear", "bicubic", "lanczos")


@without_autocast
def resize(
    features: Tensor,
    size: tuple[int, int],
    mode: str = "bilinear",
    align_corners: bool = False,
    lobes: int = 3,
) -> Tensor:
    """Resample (B, C, h, w) to (B, C, H, W); dtype and device as given.

    Args:
        features: any float dtype; half precision is computed in float32.
        size: (H, W).
        mode: ``"nearest-exact"`` takes cell ``floor((i + 0.5) h / H)``; ``"nearest"`` takes
            ``floor(i h / H)``, half a pixel off, as older PyTorch code does; ``"bilinear"`` and ``"bicubic"``
            (Keys 1981 with a = -0.75) are PyTorch's without antialias; ``"lanczos"``: see
            :func:`lanczos_matrix`. Only Lanczos widens its kernel when shrinking.
        align_corners: for bilinear and bicubic, put the outermost samples on each other.
        lobes: of the Lanczos kernel, on either side.
    """
    if mode in ("nearest-exact", "nearest"):
        return F.interpolate(features, size, mode=mode)
    dtype = working_dtype(features.dtype)
    if mode != "lanczos" and features.dtype == dtype:
        return F.interpolate(features, size, mode=mode, align_corners=align_corners)
    if mode == "lanczos":
        vertical, horizontal = (
            lanczos_matrix(n_in, n_out, lobes).to(features.device, dtype)
            for n_in, n_out in zip(features.shape[-2:], size, strict=True)
        )

        def sample(x: Tensor) -> Tensor:
            return vertical @ (x @ horizontal.T)
    else:

        def sample(x: Tensor) -> Tensor:
            return F.interpolate(x, size, mode=mode, align_corners=align_corners)

    def piece(channels: Range, rows: Range, cols: Range) -> Tensor:
        return sample(features[:, slice(*channels)].to(dtype))

    shape = (features.shape[0], features.shape[1], *size)
    chunks = split_channels(shape, size[0] * size[1] + features.shape[-2] * size[1], dtype.itemsize)
    return assemble(piece, shape, features, channels=chunks)


def lanczos_matrix(n_in: int, n_out: int, lobes: int = 3) -> Tensor:
    """(n_out, n_in) float64 weights of Lanczos resampling along one axis (Duchon 1979).

    ``L(t) = sinc(t) sinc(t / lobes)`` for ``|t| < lobes``, at ``t`` the distance between the half-pixel
    centres in input pixels, or in output pixels when shrinking. Taps outside the input are dropped and each
    row is normalised to sum 1.
    """
    scale = n_in / n_out
    centre = (torch.arange(n_out, dtype=torch.float64) + 0.5) * scale
    widening = larger(n_in, n_out) / n_out
    t = (torch.arange(n_in, dtype=torch.float64) + 0.5 - centre[:, None]) / widening
    weight = torch.where(t.abs() < lobes, torch.sinc(t) * torch.sinc(t / lobes), 0.0)
    return weight / weight.sum(1, keepdim=True)


@without_autocast
def resize_at(
    features: Tensor,
    size: tuple[int, int],
    points: Tensor,
    mode: str = "bilinear",
    align_corners: bool = False,
    lobes: int = 3,
) -> Tensor:
    """Some pixels of :func:`resize` alone: (B, C, N), of the cells that each of them is made of.

    Args:
        features, size, mode, align_corners, lobes: as of :func:`resize`.
        points: (B, N, 2) int64 (x, y).
    """
    dtype = working_dtype(features.dtype)
    (rows, down), (columns, along) = (
        _taps(n_in, n_out, where, mode, align_corners, lobes, dtype)
        for n_in, n_out, where in zip(features.shape[-2:], size, points.flip(-1).unbind(-1), strict=True)
    )
    sample = torch.arange(len(features), device=features.device)[:, None]
    total = torch.zeros((), dtype=dtype, device=features.device)
    for row, weight in zip(rows.unbind(-1), down.unbind(-1), strict=True):
        for column, other in zip(columns.unbind(-1), along.unbind(-1), strict=True):
            total = total + features[sample, :, row, column] * (weight * other)[..., None]
    return total.to(features.dtype).mT


def _taps(
    n_in: int, n_out: int, where: Tensor, mode: str, align_corners: bool, lobes: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cells and weights along one axis of the output positions ``where`` (B, N): two (B, N, taps)."""
    if mode == "lanczos":
        matrix = lanczos_matrix(n_in, n_out, lobes).to(dtype)
    else:
        kind = {} if mode.startswith("nearest") else {"align_corners": align_corners}
        eye = torch.eye(n_in, dtype=dtype)[None, ..., None]  # each cell a channel, one column wide
        matrix = F.interpolate(eye, (n_out, 1), mode=mode, **kind)[0, ..., 0].T
    first = (matrix != 0).int().argmax(1, keepdim=True)
    last = n_in - 1 - (matrix.flip(1) != 0).int().argmax(1, keepdim=True)
    cells = (first + torch.arange(int((last - first).max()) + 1)).clamp(max=n_in - 1)
    # A run that reaches the border is clamped onto its last cell, which then must not count twice.
    repeated = cells.diff(dim=1, prepend=cells[:, :1] - 1) == 0
    weights = matrix.gather(1, cells).masked_fill(repeated, 0)
    return cells.to(where.device)[where], weights.to(where.device)[where]


class BilinearBlocks:
    """Any rows and columns of ``resize(features, size)``, without making the whole map.

    Args:
        features: (B, C, h, w), float32 or float64.
        size: (H, W) of the map.
    """

    def __init__(self, features: Tensor, size: tuple[int, int]) -> None:
        self.features = features
        self.whole: Tensor | None = None
        if torch.compiler.is_compiling():  # a graph cannot pick the cells that some samples touch
            self.whole = resize(features, size)
            return
        self.vertical = self._matrix(features.shape[-2], size[0])
        self.horizontal = self._matrix(features.shape[-1], size[1])

    def _matrix(self, n_in: int, n_out: int) -> Tensor:
        eye = torch.eye(n_in, dtype=self.features.dtype, device=self.features.device)
        return F.interpolate(eye[None], n_out, mode="linear")[0].T

    def __call__(self, rows: Tensor, cols: Tensor) -> Tensor:
        """(B, C, len(rows), len(cols)); ``rows`` and ``cols`` on the CPU."""
        if self.whole is not None:
            return take(self.whole, rows, cols)
        vertical, cell_rows = self._part(self.vertical, rows)
        horizontal, cell_cols = self._part(self.horizontal, cols)
        return vertical @ (self.features[:, :, cell_rows, cell_cols] @ horizontal.T)

    @staticmethod
    def _part(matrix: Tensor, index: Tensor) -> tuple[Tensor, slice]:
        n_out, n_in = matrix.shape
        # The cells these samples touch, one more on either side in case rounding differs from PyTorch's.
        low, high = index.aminmax()
        first = math.floor((int(low) + 0.5) * n_in / n_out - 0.5) - 1
        last = math.floor((int(high) + 0.5) * n_in / n_out - 0.5) + 2
        cells = slice(max(0, first), min(n_in, last + 1))
        return matrix.index_select(0, index.to(matrix.device))[:, cells], cells


class Interpolation(Upsampler):
    """Resample the features; the image only gives the default output size.

    An output smaller than the features is sampled, not averaged, except by Lanczos, whose kernel widens.
    Any size, including 1x1 grids.

    Args:
        mode, align_corners, lobes: see :func:`resize`.

    Raises:
        ValueError: an unknown mode, ``align_corners`` with a mode that has none, or ``lobes`` below 1.
    """

    guided = False

    def __init__(self, mode: str = "bilinear", align_corners: bool = False, lobes: int = 3) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, got {mode!r}")
        if align_corners and mode not in ("bilinear", "bicubic"):
            raise ValueError(f"align_corners is for bilinear and bicubic, not for {mode}")
        if lobes < 1:
            raise ValueError(f"lobes must be at least 1, got {lobes}")
        self.mode = mode
        self.align_corners = align_corners
        self.lobes = lobes
        # The kernels of the other two have negative lobes.
        self.promises = Promises(
            linear_groups=1,
            range=mode not in ("bicubic", "lanczos"),
            translation=not align_corners,
            open_sizes=True,
        )

    def extra_repr(self) -> str:
        return f"mode={self.mode!r}"

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return resize(features, output_size, self.mode, self.align_corners, self.lobes)

    def upsample_points(
        self, image: Tensor, features: Tensor, output_size: tuple[int, int], points: Tensor
    ) -> Tensor:
        return resize_at(features, output_size, points, self.mode, self.align_corners, self.lobes)

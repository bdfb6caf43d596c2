"""Guided filter and fast guided filter, and upsamplers made of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from naf_hub import Promises, Upsampler
from naf_hub.parts.pieces import Range, assemble, split_channels
from naf_hub.parts.precision import without_autocast, working_dtype
from naf_hub.parts.sizes import are_equal, average_pool, larger

from .borders import BORDERS, pad
from .interpolation import resize
from .parameters import check_same_grid


def _check(radius: int, eps: float, border: str, factor: int = 1) -> None:
    if radius < 1:
        raise ValueError(f"radius must be at least 1, got {radius}")
    if not eps > 0:
        raise ValueError(f"eps must be positive, got {eps}")
    if border not in ("shrink", *BORDERS):
        raise ValueError(f"border must be one of shrink, {', '.join(BORDERS)}, got {border!r}")
    if factor < 1:
        raise ValueError(f"factor must be at least 1, got {factor}")


def box_mean(x: Tensor, radius: int, border: str = "shrink") -> Tensor:
    """Mean of (B, C, H, W) over windows of side ``2 radius + 1``.

    ``border``: ``"shrink"`` averages the part of the window inside the map (He et al.), ``"symmetric"``
    mirrors with the edge repeated (OpenCV), ``"reflect101"`` without (Kornia); an axis too short to mirror
    repeats its edge.
    """
    side = 2 * radius + 1
    margin = radius if border == "shrink" else 0
    if border != "shrink":
        x = pad(x, radius, border)
    x = F.avg_pool2d(x, (side, 1), 1, (margin, 0), count_include_pad=False)
    return F.avg_pool2d(x, (1, side), 1, (0, margin), count_include_pad=False)


def inverse_of_definite(matrices: Tensor) -> Tensor:
    """Inverses of symmetric positive definite (..., G, G), G small.

    Gauss-Jordan elimination, which needs no pivots for such matrices, in plain arithmetic: ``torch.linalg.inv`` has
    no counterpart in ONNX, and calls a library once a matrix.
    """
    size = matrices.shape[-1]
    eye = torch.eye(size, dtype=matrices.dtype, device=matrices.device)
    rows = torch.cat([matrices, eye.expand_as(matrices)], -1)
    for k in range(size):
        pivot = rows[..., k : k + 1, :] / rows[..., k : k + 1, k : k + 1]
        # Taking 1 less off row k itself leaves the pivot row there.
        rows = rows - (rows[..., k : k + 1] - eye[:, k : k + 1]) * pivot
    return rows[..., size:]


class _LocalLinear:
    """The local linear model ``out = a . I + b`` of a guidance: what all filtered channels share.

    Covariances are taken about the mean of the whole map, which changes nothing but rounding.
    """

    def __init__(self, guidance: Tensor, radius: int, eps: float, border: str) -> None:
        self.radius, self.border = radius, border
        self.offset = guidance.mean((2, 3), keepdim=True)
        self.guidance = guidance - self.offset
        self.means = self.mean(self.guidance)
        sigma = self._covariance(self.guidance, self.means).permute(0, 3, 4, 1, 2)
        # The small matrices are the ill-conditioned part; Apple GPUs have no float64.
        exact = sigma if sigma.device.type == "mps" else sigma.double()
        exact = exact + eps * torch.eye(sigma.shape[-1], dtype=exact.dtype, device=exact.device)
        self.inverse = inverse_of_definite(exact).to(sigma.dtype).permute(0, 3, 4, 1, 2)

    def mean(self, x: Tensor) -> Tensor:
        return box_mean(x, self.radius, self.border)

    def _covariance(self, x: Tensor, mean: Tensor) -> Tensor:
        """(B, C, h, w) -> (B, G, C, h, w)."""
        pairs = zip(self.guidance.split(1, 1), self.means.split(1, 1), strict=True)
        return torch.stack([self.mean(x * guide) - mean * guide_mean for guide, guide_mean in pairs], 1)

    def coefficients(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to fit -> (B, G + 1, C, h, w): mean(a) per guidance channel, then mean(b)."""
        offset = x.mean((2, 3), keepdim=True)
        x = x - offset
        mean = self.mean(x)
        covariance = self._covariance(x, mean)
        a = [(row[:, :, None] * covariance).sum(1) for row in self.inverse.unbind(1)]
        b = mean
        for slope, guide_mean in zip(a, self.means.split(1, 1), strict=True):
            b = b - slope * guide_mean
        return torch.stack([*map(self.mean, a), self.mean(b) + offset], 1)

    def combine(self, coefficients: Tensor, image: Tensor) -> Tensor:
        """``mean(a) . I + mean(b)`` with ``image`` (B, G, H, W) and coefficients resized to it."""
        size = (image.shape[-2], image.shape[-1])
        if not are_equal(coefficients.shape[-2:], size):
            coefficients = resize(coefficients.flatten(1, 2), size).unflatten(1, coefficients.shape[1:3])
        *slopes, out = coefficients.unbind(1)
        for slope, channel in zip(slopes, (image - self.offset).unbind(1), strict=True):
            out = torch.addcmul(out, slope, channel[:, None])
        return out


@without_autocast
def guided_filter(
    features: Tensor,
    guidance: Tensor,
    radius: int = 4,
    eps: float = 1e-2,
    border: str = "shrink",
    factor: int = 1,
) -> Tensor:
    """Guided filter (He, Sun, Tang 2013), or fast guided filter (He & Sun 2015) with ``factor`` above 1.

    Args:
        features: (B, C, H, W), the input to filter.
        guidance: (B, G, H, W), any number of channels; one is the grey-scale form.
        radius: of the window, in pixels of ``features``: its side is ``2 radius + 1``.
        eps: regularisation, in squared units of the guidance.
        border: see :func:`box_mean`.
        factor: coefficients are computed on both inputs average-pooled to ``floor(H / factor)`` x
            ``floor(W / factor)`` (at least 1) with radius ``max(1, round(radius / factor))``, and then
            resized bilinearly.

    Returns:
        (B, C, H, W), dtype of ``features``; half precision is computed in float32.

    Raises:
        ValueError: sizes that differ, ``radius`` or ``factor`` below 1, ``eps`` not positive, an
            unknown border.
    """
    _check(radius, eps, border, factor)
    check_same_grid(features, guidance)
    guidance = guidance.to(working_dtype(features.dtype))
    grid = _pooled((features.shape[-2], features.shape[-1]), factor)

    def pool(x: Tensor) -> Tensor:
        return x if factor == 1 else average_pool(x, grid)

    model = _LocalLinear(pool(guidance), max(1, round(radius / factor)), eps, border)
    return _apply(model, pool, features, guidance, grid)


def _pooled(size: tuple[int, int], factor: int) -> tuple[int, int]:
    return (larger(1, size[0] // factor), larger(1, size[1] // factor))


def _apply(
    model: _LocalLinear,
    lower: Callable[[Tensor], Tensor],
    features: Tensor,
    image: Tensor,
    grid: tuple[int, int],
) -> Tensor:
    """Coefficients of ``lower(features)`` on ``grid``, applied to ``image``, in chunks of channels."""

    def piece(channels: Range, rows: Range, cols: Range) -> Tensor:
        return model.combine(model.coefficients(lower(features[:, slice(*channels)].to(image.dtype))), image)

    height, width = image.shape[-2:]
    shape = (features.shape[0], features.shape[1], height, width)
    maps = image.shape[1] + 3
    values = maps * (height * width + 2 * grid[0] * grid[1])
    chunks = split_channels(shape, values, image.dtype.itemsize)
    return assemble(piece, shape, features, [image], channels=chunks)


@without_autocast
def guided_upsample(
    features: Tensor, image: Tensor, radius: int = 1, eps: float = 1e-2, border: str = "shrink"
) -> Tensor:
    """Guided filter with coefficients on the feature grid, applied to the image at its own size.

    Args:
        features: (B, C, h, w).
        image: (B, G, H, W) guidance at output size; average-pooled to (h, w) for the coefficients, which
            are resized bilinearly.
        radius: of the window, in feature cells.
        eps: regularisation, in squared units of the image.
        border: see :func:`box_mean`.

    Returns:
        (B, C, H, W), dtype of ``features``; half precision is computed in float32.

    Raises:
        ValueError: ``radius`` below 1, ``eps`` not positive, an unknown border.
    """
    _check(radius, eps, border)
    image = image.to(working_dtype(features.dtype))
    grid = (features.shape[-2], features.shape[-1])
    model = _LocalLinear(average_pool(image, grid), radius, eps, border)
    return _apply(model, lambda x: x, features, image, grid)


class GuidedFilter(Upsampler):
    """:func:`guided_upsample` with the image in [0, 1], resized bilinearly to the output where it differs.

    Fits every feature channel as a linear function of RGB in windows of feature cells (He, Sun, Tang
    2013) and evaluates it at output resolution. Results may leave the range of the features. Not in the
    NAF paper; the definition as an upsampler is ours. Any size; an output smaller than the features is
    sampled.

    Args:
        radius: in feature cells.
        eps, border: see :func:`guided_upsample`.

    Raises:
        ValueError: see :func:`guided_upsample`.
    """

    promises = Promises(linear_groups=1, translation=True, open_sizes=True)

    def __init__(self, radius: int = 1, eps: float = 1e-2, border: str = "shrink") -> None:
        super().__init__()
        _check(radius, eps, border)
        self.radius, self.eps, self.border = radius, eps, border

    def extra_repr(self) -> str:
        return f"radius={self.radius}, eps={self.eps}, border={self.border!r}"

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        image = resize(image.to(working_dtype(features.dtype)), output_size)
        return guided_upsample(features, image, self.radius, self.eps, self.border)


class FastGuidedFilter(Upsampler):
    """Bilinear interpolation to the output, then the fast guided filter (He & Sun 2015) there.

    Unlike :class:`GuidedFilter` its window is in output pixels, whatever the feature grid. The guidance
    is the image in [0, 1], resized bilinearly to the output where its size differs. Results may leave the
    range of the features. The definition as an upsampler is ours.

    Args:
        radius: in output pixels.
        eps, border, factor: see :func:`guided_filter`.

    Raises:
        ValueError: see :func:`guided_filter`.
    """

    promises = Promises(linear_groups=1, open_sizes=True)

    def __init__(self, radius: int = 16, eps: float = 1e-2, factor: int = 4, border: str = "shrink") -> None:
        super().__init__()
        _check(radius, eps, border, factor)
        self.radius, self.eps, self.factor, self.border = radius, eps, factor, border

    def extra_repr(self) -> str:
        return f"radius={self.radius}, eps={self.eps}, factor={self.factor}, border={self.border!r}"

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        image = resize(image.to(working_dtype(features.dtype)), output_size)
        return _fast(features, image, output_size, self)


@without_autocast
def _fast(features: Tensor, image: Tensor, size: tuple[int, int], model: FastGuidedFilter) -> Tensor:
    grid = _pooled(size, model.factor)
    # Interpolating and pooling are linear and separable: two small matrices, and no map at output size.
    vertical, horizontal = (
        average_pool(
            F.interpolate(torch.eye(n_in).to(image)[None], n_out, mode="linear")[None], (n_in, n_low)
        )[0, 0].T
        for n_in, n_out, n_low in zip(features.shape[-2:], size, grid, strict=True)
    )
    radius = max(1, round(model.radius / model.factor))
    linear = _LocalLinear(average_pool(image, grid), radius, model.eps, model.border)
    return _apply(linear, lambda x: vertical @ (x @ horizontal.T), features, image, grid)

"""Bilateral and joint bilateral filters, and the bilateral upsampler."""

from __future__ import annotations

import torch
from torch import Tensor

from naf_hub import Promises, Upsampler
from naf_hub.parts.pieces import Range, assemble, split_channels
from naf_hub.parts.precision import without_autocast, working_dtype

from .borders import pad
from .interpolation import BilinearBlocks
from .parameters import check_same_grid, check_window
from .window_average import gaussian, window_average


def bilateral_filter(
    features: Tensor,
    kernel_size: int = 5,
    sigma_color: float = 0.1,
    sigma_spatial: float = 1.5,
    color_distance: str = "l1",
) -> Tensor:
    """:func:`joint_bilateral_filter` of ``features`` guided by themselves (Tomasi & Manduchi 1998)."""
    return joint_bilateral_filter(features, features, kernel_size, sigma_color, sigma_spatial, color_distance)


@without_autocast
def joint_bilateral_filter(
    features: Tensor,
    guidance: Tensor,
    kernel_size: int = 5,
    sigma_color: float = 0.1,
    sigma_spatial: float = 1.5,
    color_distance: str = "l1",
) -> Tensor:
    """Average with weights ``exp(-|p - q|^2 / 2 ss^2) exp(-d(G_p, G_q)^2 / 2 sr^2)``, normalised to sum 1.

    Args:
        features: (B, C, H, W).
        guidance: (B, G, H, W), any range.
        kernel_size: odd side of the window, in pixels. Borders are reflected without repeating the edge;
            an axis of at most ``kernel_size // 2`` pixels repeats its edge instead.
        sigma_color: sr, in units of the guidance.
        sigma_spatial: ss, in pixels.
        color_distance: ``"l1"`` sums absolute channel differences (Kornia and OpenCV), ``"l2"`` is the
            Euclidean norm of the original papers.

    Returns:
        (B, C, H, W), dtype of ``features``; half precision is computed in float32.

    Raises:
        ValueError: sizes that differ, an even ``kernel_size``, a sigma that is not positive, or an
            unknown ``color_distance``.
    """
    check_window(kernel_size, sigma_color, sigma_spatial, color_distance)
    check_same_grid(features, guidance)
    dtype = working_dtype(features.dtype)
    weights = tap_weights(guidance.to(dtype), kernel_size, sigma_color, sigma_spatial, color_distance)

    def piece(channels: Range, rows: Range, cols: Range) -> Tensor:
        return tap_average(features[:, slice(*channels)].to(dtype), weights)

    batch, count, height, width = features.shape
    shape = (batch, count, height, width)
    chunks = split_channels(shape, 3 * height * width, dtype.itemsize)
    return assemble(piece, shape, features, [weights], channels=chunks)


def tap_weights(
    guidance: Tensor, kernel_size: int, sigma_color: float, sigma_spatial: float, distance: str
) -> Tensor:
    """(B, kernel_size^2, H, W) weights that sum to 1 over the taps."""
    radius = kernel_size // 2
    height, width = guidance.shape[-2:]
    padded = pad(guidance, radius)
    weights = []
    for tap, factor in enumerate(gaussian(radius, sigma_spatial, guidance).flatten()):
        dy, dx = divmod(tap, kernel_size)
        difference = padded[:, :, dy : dy + height, dx : dx + width] - guidance
        squared = difference.abs().sum(1).square() if distance == "l1" else difference.square().sum(1)
        weights.append(factor * torch.exp(squared / (-2 * sigma_color**2)))
    # The centre tap alone weighs 1, so the sum cannot vanish.
    stacked = torch.stack(weights, 1)
    return stacked / stacked.sum(1, keepdim=True)


def tap_average(features: Tensor, weights: Tensor) -> Tensor:
    """Average (B, C, H, W) over the window with the weights of :func:`tap_weights`."""
    kernel_size = round(weights.shape[1] ** 0.5)
    height, width = features.shape[-2:]
    padded = pad(features, kernel_size // 2)
    out = torch.zeros_like(features)
    for tap in range(kernel_size**2):
        dy, dx = divmod(tap, kernel_size)
        out = out.addcmul_(padded[:, :, dy : dy + height, dx : dx + width], weights[:, tap : tap + 1])
    return out


class Bilateral(Upsampler):
    """Bilinear interpolation to the output, then a bilateral filter (Tomasi & Manduchi 1998) there.

    The features are their own guidance, so nothing follows the image: this smooths within regions of
    like features and keeps the steps between them. The range distance is the root-mean-square difference
    over channels, in units of the standard deviation of each sample's features (about their channel
    means): one ``sigma_color`` then suits every backbone. Borders are reflected; an axis of at most
    ``kernel_size // 2`` pixels repeats its edge instead.

    For the plain filter of an image or feature map see :func:`bilateral_filter`.

    Args:
        kernel_size: odd side of the window, in output pixels.
        sigma_color: range, in standard deviations of the features.
        sigma_spatial: in output pixels.

    Raises:
        ValueError: an even ``kernel_size``, or a sigma that is not positive.
    """

    promises = Promises(range=True, translation=True, open_sizes=True)
    guided = False

    def __init__(self, kernel_size: int = 5, sigma_color: float = 0.1, sigma_spatial: float = 1.5) -> None:
        super().__init__()
        check_window(kernel_size, sigma_color, sigma_spatial)
        self.kernel_size = kernel_size
        self.sigma_color = sigma_color
        self.sigma_spatial = sigma_spatial

    def extra_repr(self) -> str:
        sigmas = f"sigma_color={self.sigma_color}, sigma_spatial={self.sigma_spatial}"
        return f"kernel_size={self.kernel_size}, {sigmas}"

    def upsample(self, image: Tensor, features: Tensor, output_size: tuple[int, int]) -> Tensor:
        return _upsample(features, output_size, self)


@without_autocast
def _upsample(features: Tensor, size: tuple[int, int], model: Bilateral) -> Tensor:
    x = features.to(working_dtype(features.dtype))
    upsampled = BilinearBlocks(x, size)
    mean = x.mean((2, 3), keepdim=True)
    variance = (x - mean).square().mean((1, 2, 3), keepdim=True)
    tiny = torch.finfo(x.dtype).tiny  # constant features: every distance is zero
    scale = (x.shape[1] * variance).clamp_min(tiny).rsqrt() / model.sigma_color

    def blocks(rows: Tensor, cols: Tensor) -> tuple[Tensor, Tensor]:
        values = upsampled(rows, cols)
        return (values - mean) * scale, values

    def score(queries: Tensor, keys: Tensor) -> Tensor:
        # -|k - q|^2 / 2 without |q|^2, which is the same for a pixel's whole window.
        return queries @ keys - keys.square().sum(1, keepdim=True) / 2

    spatial = gaussian(model.kernel_size // 2, model.sigma_spatial, x)
    shape = (x.shape[0], x.shape[1], *size)
    return window_average(blocks, score, spatial, shape, x.shape[1], features)

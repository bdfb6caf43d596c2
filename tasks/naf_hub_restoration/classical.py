"""Classical denoisers, each told the level of the noise, and a blur, which must lose."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naf_hub.errors import MissingExtraError

from .noise import Kind

# Of the (H, W, 3) values of one noisy image and the level of its noise, the restored values.
Method = Callable[[np.ndarray, float], np.ndarray]
# Pixels of the blur's Gaussian, without noise and per unit of it: near the best PSNR on photos from 0.1 to 0.5.
BLUR, BLUR_PER_SIGMA = 0.4, 5.0


def classical_methods(noise: Kind = "gaussian") -> dict[str, Method]:
    """The methods against ``noise`` by the label of their row.

    Against Gaussian noise, parameters are those of scikit-image's gallery: non-local means with h = 0.6 sigma, patches
    of 5 x 5 within 13 x 13; total variation (Chambolle) with weight sigma; BayesShrink of wavelets in YCbCr. Against
    salt and pepper: the median of 3 x 3 and of 5 x 5 values of a channel, and that of those among 5 x 5 that are
    neither 0 nor 1, which only takes the place of zeros and ones. The control is a Gaussian blur of 0.4 + 5 level
    pixels: what averaging gives that never looks at the image.

    Raises:
        MissingExtraError: scikit-image or PyWavelets is not installed.
    """
    restoration, filters = _need("skimage.restoration"), _need("skimage.filters")
    _need("pywt")

    def blur(noisy: np.ndarray, level: float) -> np.ndarray:
        return filters.gaussian(noisy, BLUR + BLUR_PER_SIGMA * level, channel_axis=-1)

    if noise == "salt_and_pepper":
        return {
            "gaussian blur": blur,
            "median of 3 x 3": lambda noisy, _: np.median(_windows(noisy, 1), (-2, -1)),
            "median of 5 x 5": lambda noisy, _: np.median(_windows(noisy, 2), (-2, -1)),
            "median without 0 and 1": lambda noisy, _: _median_of_the_others(noisy),
        }

    def nonlocal_means(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return restoration.denoise_nl_means(
            noisy, patch_size=5, patch_distance=6, h=0.6 * sigma, sigma=sigma, fast_mode=True, channel_axis=-1
        )

    def total_variation(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return restoration.denoise_tv_chambolle(noisy, weight=sigma, channel_axis=-1)

    def wavelet(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return restoration.denoise_wavelet(
            noisy, sigma=sigma, method="BayesShrink", mode="soft", convert2ycbcr=True, rescale_sigma=True,
            channel_axis=-1,
        )  # fmt: skip

    return {
        "gaussian blur": blur,
        "non-local means": nonlocal_means,
        "total variation": total_variation,
        "wavelet": wavelet,
    }


def _windows(image: np.ndarray, radius: int) -> np.ndarray:
    """(H, W, 3) to (H, W, 3, 2r + 1, 2r + 1); borders repeat."""
    padded = np.pad(image, ((radius, radius), (radius, radius), (0, 0)), mode="edge")
    return np.lib.stride_tricks.sliding_window_view(padded, (2 * radius + 1, 2 * radius + 1), (0, 1))


def _median_of_the_others(noisy: np.ndarray) -> np.ndarray:
    """Zeros and ones replaced by the median of what is neither within 5 x 5, or by a half where nothing is."""
    windows = _windows(noisy, 2).reshape(*noisy.shape, -1)
    spoilt = (windows <= 0) | (windows >= 1)
    count = (~spoilt).sum(-1)
    ordered = np.sort(np.where(spoilt, np.inf, windows), -1)
    middle = [np.take_along_axis(ordered, at[..., None], -1)[..., 0] for at in ((count - 1) // 2, count // 2)]
    median = np.where(count > 0, (middle[0] + middle[1]) / 2, 0.5)
    return np.where((noisy <= 0) | (noisy >= 1), median, noisy)


def apply(method: Method, noisy: Tensor, level: float) -> Tensor:
    """A batch (B, 3, H, W), restored image by image; without noise it stays as it is."""
    if not level:
        return noisy
    images = noisy.permute(0, 2, 3, 1)
    # Scikit-image drops the sides of an image of one pixel.
    restored = [method(image, level).reshape(image.shape) for image in images.numpy()]
    return torch.from_numpy(np.stack(restored).astype(np.float32)).permute(0, 3, 1, 2)


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("classical methods need pip install 'naf-hub[eval]'") from error

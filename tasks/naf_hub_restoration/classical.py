"""Classical denoisers of scikit-image, each told the standard deviation of the noise, and a blur, which must lose."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from naf_hub.errors import MissingExtraError

# Of the (H, W, 3) values of one noisy image and the standard deviation of its noise, the restored values.
Method = Callable[[np.ndarray, float], np.ndarray]
# Pixels of the blur's Gaussian, without noise and per unit of it: near the best PSNR on photos from 0.1 to 0.5.
BLUR, BLUR_PER_SIGMA = 0.4, 5.0


def classical_methods() -> dict[str, Method]:
    """The methods by the label of their row.

    Parameters are those of scikit-image's gallery, which follow the noise: non-local means with h = 0.6 sigma, patches
    of 5 x 5 within 13 x 13; total variation (Chambolle) with weight sigma; BayesShrink of the wavelets in YCbCr. The
    control is a Gaussian blur of 0.4 + 5 sigma pixels: what averaging gives that never looks at the image.

    Raises:
        MissingExtraError: scikit-image or PyWavelets is not installed.
    """
    restoration, filters = _need("skimage.restoration"), _need("skimage.filters")
    _need("pywt")

    def blur(noisy: np.ndarray, sigma: float) -> np.ndarray:
        return filters.gaussian(noisy, BLUR + BLUR_PER_SIGMA * sigma, channel_axis=-1)

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


def apply(method: Method, noisy: Tensor, sigma: float) -> Tensor:
    """A batch (B, 3, H, W), restored image by image; without noise it stays as it is."""
    if not sigma:
        return noisy
    images = noisy.permute(0, 2, 3, 1)
    # Scikit-image drops the sides of an image of one pixel.
    restored = [method(image, sigma).reshape(image.shape) for image in images.numpy()]
    return torch.from_numpy(np.stack(restored).astype(np.float32)).permute(0, 3, 1, 2)


def _need(module: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError("classical methods need pip install 'naf-hub[eval]'") from error

"""Checks of what callers pass in: each failure is one line that says what to do."""

from __future__ import annotations

import contextlib
import contextvars
import sys
import warnings
from collections.abc import Iterator
from types import FrameType

import torch
from torch import Tensor

# How far outside [0, 1] resampling and rounding may take an image before a caller is told.
RANGE_TOLERANCE = 0.05

_told: contextvars.ContextVar[set[str] | None] = contextvars.ContextVar("told", default=None)


@contextlib.contextmanager
def tell_once() -> Iterator[None]:
    """Within this context each warning of :func:`warn_caller` is given once: one call of a user, one telling."""
    token = _told.set(set())
    try:
        yield
    finally:
        _told.reset(token)


def warn_caller(message: str) -> None:
    """Warn (``UserWarning``) at the line outside torch and naf-hub that led here; silent while a graph is traced."""
    if torch.compiler.is_compiling():
        return
    told = _told.get()
    if told is not None:
        if message in told:
            return
        told.add(message)
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _inside(frame):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


def _inside(frame: FrameType) -> bool:
    """Whether a frame is torch's, naf-hub's or a plugin's, which by convention is called ``naf_hub_...``."""
    package = str(frame.f_globals.get("__name__", "")).partition(".")[0]
    return package == "torch" or package.startswith("naf_hub")


def check_image(image: Tensor) -> None:
    """Require a float (B, 3, H, W) tensor of finite RGB values; warn when they leave [0, 1].

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: wrong shape, an empty side, or NaN/inf.
    """
    if not isinstance(image, Tensor):
        raise TypeError(f"image must be a torch tensor (B, 3, H, W), got {type(image).__name__}")
    if image.ndim != 4 or image.shape[1] != 3:
        raise ValueError(f"image must have shape (B, 3, H, W), got {tuple(image.shape)}; images are RGB")
    if not image.is_floating_point():
        raise TypeError(f"image must be float in [0, 1], got {image.dtype}; divide 8-bit images by 255")
    if min(image.shape) == 0:
        raise ValueError(f"image has an empty side: {tuple(image.shape)}")
    if image.is_meta or torch.compiler.is_compiling():
        return  # values are unknown while a graph is traced
    low, high = (float(v) for v in torch.aminmax(image.detach()))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):  # also false for NaN
        raise ValueError("image contains NaN or infinite values")
    if low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE:
        cause = "divide 0-255 images by 255" if high > 16 else "pass it before any mean/std normalisation"
        warn_caller(
            f"image values span [{low:.3g}, {high:.3g}] but must be RGB in [0, 1]: {cause}; naf-hub normalises inside"
        )


def check_features(features: Tensor, image: Tensor) -> None:
    """Require finite float (B, C, h, w) features with the batch size and device of ``image``.

    Raises:
        TypeError: not a floating-point tensor.
        ValueError: wrong shape, an empty side, another batch or device than the image, or NaN/inf.
    """
    if not isinstance(features, Tensor):
        raise TypeError(f"features must be a torch tensor (B, C, h, w), got {type(features).__name__}")
    if features.ndim != 4:
        raise ValueError(
            f"features must have shape (B, C, h, w), got {tuple(features.shape)}; "
            "drop class and register tokens and reshape tokens to a grid"
        )
    if not features.is_floating_point():
        raise TypeError(f"features must be floating point, got {features.dtype}")
    if min(features.shape) == 0:
        raise ValueError(f"features have an empty side: {tuple(features.shape)}")
    if features.shape[0] != image.shape[0]:
        raise ValueError(f"batch sizes differ: image has {image.shape[0]}, features have {features.shape[0]}")
    if features.device != image.device:
        raise ValueError(f"image is on {image.device} but features are on {features.device}")
    if features.is_meta or torch.compiler.is_compiling():
        return
    # A sum meets every value once and keeps NaN and inf, without a mask the size of the features.
    if not torch.isfinite(features.detach().sum(dtype=torch.float32)):
        finite = torch.isfinite(features.detach()).all()
        if not finite:
            raise ValueError("features contain NaN or infinite values")


def check_output_size(output_size: int | tuple[int, int] | None, image: Tensor) -> tuple[int, int]:
    """``(H, W)`` in pixels; an int means a square, ``None`` the size of the image.

    Raises:
        ValueError: not an int or a pair of ints, or smaller than 1.
    """
    if output_size is None:
        return (image.shape[-2], image.shape[-1])
    pair = (output_size, output_size) if isinstance(output_size, int) else tuple(output_size)
    if len(pair) != 2 or not all(isinstance(side, int) and not isinstance(side, bool) for side in pair):
        raise ValueError(f"output_size must be an int or (height, width), got {output_size!r}")
    if min(pair) < 1:
        raise ValueError(f"output_size must be at least 1 pixel a side, got {output_size!r}")
    return pair

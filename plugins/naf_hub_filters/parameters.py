"""Checks of filter parameters: each failure is one line."""

from __future__ import annotations

from torch import Tensor

DISTANCES = ("l1", "l2")


def check_window(
    kernel_size: int, sigma_color: float, sigma_spatial: float, color_distance: str = "l1"
) -> None:
    """Raise ``ValueError`` for parameters that make no bilateral filter."""
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise ValueError(f"kernel_size must be odd and positive, got {kernel_size}")
    if not (sigma_color > 0 and sigma_spatial > 0):
        raise ValueError(f"sigmas must be positive, got {sigma_color} (color) and {sigma_spatial} (spatial)")
    if color_distance not in DISTANCES:
        raise ValueError(f"color_distance must be one of {', '.join(DISTANCES)}, got {color_distance!r}")


def check_same_grid(features: Tensor, guidance: Tensor) -> None:
    """Raise ``ValueError`` unless both maps have the same batch, height and width."""
    if guidance.shape[0] != features.shape[0] or guidance.shape[2:] != features.shape[2:]:
        raise ValueError(
            f"guidance {tuple(guidance.shape)} and features {tuple(features.shape)} "
            "must agree in all but channels"
        )

"""The precision filters compute in: at least float32, whatever the caller's dtype or autocast says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything narrower becomes float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` with autocast off: its matrix products hold weights and squared distances, which
    half precision would ruin, and its result keeps the dtype of its input."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next(a for a in args if isinstance(a, Tensor)).device.type
        if not torch.is_autocast_enabled(device):
            return function(*args, **kwargs)
        with torch.autocast(device, enabled=False):
            return function(*args, **kwargs)

    return wrapper

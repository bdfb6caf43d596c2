"""The precision that sensitive numerics are computed in: at least float32, whatever the caller's dtype or autocast."""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

P = ParamSpec("P")
R = TypeVar("R")


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 stays, everything narrower becomes float32."""
    return torch.promote_types(dtype, torch.float32)


def autocast_off(device: torch.device) -> AbstractContextManager[Any]:
    """A context without autocast on ``device``, which would do matrix products in half precision."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def without_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """Run ``function`` under :func:`autocast_off`, on the device of its first tensor: for products of weights and
    squared distances, which half precision would ruin. Its result keeps the dtype of its input."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with autocast_off(next(a for a in args if isinstance(a, Tensor)).device):
            return function(*args, **kwargs)

    return wrapper

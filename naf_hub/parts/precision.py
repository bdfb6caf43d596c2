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


def has_fast_half(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device multiplies matrices of a half precision faster than float32: of CPUs those with AMX or AVX512
    instructions for bfloat16; without, products in half precision take many times as long."""
    if device.type != "cpu":
        return True
    if dtype != torch.bfloat16:
        return False
    # Named so in every torch that is supported; on processors of other makers they are missing or false.
    asked = (getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("amx_tile", "avx512_bf16"))
    return any(ask is not None and ask() for ask in asked)


def map_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype that maps of a tensor are best computed in: autocast's where that is on, else its own; float32 for
    half precision on devices that are slower there, see :func:`has_fast_half`."""
    autocast = torch.is_autocast_enabled(tensor.device.type)
    dtype = torch.get_autocast_dtype(tensor.device.type) if autocast else tensor.dtype
    exact = dtype in (torch.float32, torch.float64)
    return dtype if exact or has_fast_half(dtype, tensor.device) else working_dtype(tensor.dtype)

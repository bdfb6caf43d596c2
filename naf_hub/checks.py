"""Checks of what callers pass in: each failure is one line that says what to do."""

from __future__ import annotations

import contextlib
import contextvars
import operator
import sys
import warnings
import weakref
from collections.abc import Hashable, Iterable, Iterator, Mapping
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

# How far outside [0, 1] resampling and rounding may take an image before a caller is told.
RANGE_TOLERANCE = 0.05

# Sizes and dtypes of what a model on an accelerator was given before.
_right: weakref.WeakKeyDictionary[nn.Module, set[Hashable]] = weakref.WeakKeyDictionary()

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


def looks_at(model: nn.Module, *given: Any) -> bool:
    """Whether a call of a model looks at the values of what it is given: always on CPUs, elsewhere until a call of
    that size was found to be right, see :func:`found_right`.

    To look at values on an accelerator waits for all that was launched there before. What is wrong with values
    (0-255 images, features of NaN) mostly is so from the first call on, and later calls then queue without waiting.

    Args:
        model: that is called.
        given: the image and its features.
    """
    if torch.compiler.is_compiling() or given[0].device.type == "cpu":
        return True
    if given[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return False  # a graph that is being captured cannot be waited for
    return _kinds(given) not in _right.get(model, ())


def found_right(model: nn.Module, *given: Any) -> None:
    """Note that a model was given values that are right; see :func:`looks_at`."""
    if not (torch.compiler.is_compiling() or given[0].device.type == "cpu"):
        _right.setdefault(model, set()).add(_kinds(given))


def check_image_given_to(model: nn.Module, image: Tensor, any_range: bool = False) -> None:
    """:func:`check_image` for a model that takes an image alone, looking at its values as :func:`looks_at` says.

    Raises:
        TypeError, ValueError: as :func:`check_image`.
    """
    values = looks_at(model, image)
    check_image(image, any_range, values)
    if values:
        found_right(model, image)


def _kinds(given: Iterable[Any]) -> Hashable:
    return tuple((found.shape, found.dtype) for found in given if isinstance(found, Tensor))


def check_image(image: Tensor, any_range: bool = False, values: bool = True) -> None:
    """Require a float (B, 3, H, W) tensor of finite RGB values; warn when they leave [0, 1], unless ``any_range``.

    Without ``values`` only its kind and shape are looked at, see :func:`looks_at`.

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
    if any(side == 0 for side in image.shape):
        raise ValueError(f"image has an empty side: {tuple(image.shape)}")
    if not values or image.is_meta or torch.compiler.is_compiling():
        return  # values are unknown while a graph is traced
    low, high = (float(v) for v in torch.aminmax(image.detach()))
    if not (abs(low) < float("inf") and abs(high) < float("inf")):  # also false for NaN
        raise ValueError("image contains NaN or infinite values")
    if not any_range and (low < -RANGE_TOLERANCE or high > 1 + RANGE_TOLERANCE):
        cause = "divide 0-255 images by 255" if high > 16 else "pass it before any mean/std normalisation"
        warn_caller(
            f"image values span [{low:.3g}, {high:.3g}] but must be RGB in [0, 1]: {cause}; naf-hub normalises inside"
        )


def check_features(features: Tensor, image: Tensor, values: bool = True) -> None:
    """Require finite float (B, C, h, w) features with the batch size and device of ``image``.

    Without ``values`` they need not be finite, see :func:`looks_at`.

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
    if any(side == 0 for side in features.shape):
        raise ValueError(f"features have an empty side: {tuple(features.shape)}")
    if features.shape[0] != image.shape[0]:
        raise ValueError(f"batch sizes differ: image has {image.shape[0]}, features have {features.shape[0]}")
    if features.device != image.device:
        raise ValueError(f"image is on {image.device} but features are on {features.device}")
    if not values or features.is_meta or torch.compiler.is_compiling():
        return
    # A sum meets every value once and keeps NaN and inf, without a mask the size of the features.
    if not torch.isfinite(features.detach().sum(dtype=torch.float32)):
        finite = torch.isfinite(features.detach()).all()
        if not finite:
            raise ValueError("features contain NaN or infinite values")


def _whole(side: Any) -> Any:
    """A whole number of any kind (NumPy's and traced ones too), but not a truth value."""
    if isinstance(side, (bool, str, bytes)):
        raise TypeError("not a number")
    return side if isinstance(side, torch.SymInt) else operator.index(side)


def check_output_size(output_size: Any, image: Tensor) -> tuple[int, int]:
    """``(H, W)`` in pixels; a whole number means a square, ``None`` the size of the image.

    Raises:
        ValueError: not a whole number or a pair of them, or smaller than 1.
    """
    if output_size is None:
        return (image.shape[-2], image.shape[-1])
    sides = tuple(output_size) if isinstance(output_size, Iterable) else (output_size, output_size)
    try:
        pair = tuple(_whole(side) for side in sides)
    except TypeError:
        pair = ()
    if len(pair) != 2:
        raise ValueError(f"output_size must be an int or (height, width), got {output_size!r}")
    if any(side < 1 for side in pair):
        raise ValueError(f"output_size must be at least 1 pixel a side, got {output_size!r}")
    return pair


def check_points(points: Any, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Pixels (x, y) of an output as (B, N, 2) int64 on the image's device, from (N, 2) or (B, N, 2).

    Args:
        points: a tensor, an array or nested sequences of whole numbers.
        image: (B, 3, H_img, W_img).
        size: (H, W) of the output.

    Raises:
        TypeError: not whole numbers.
        ValueError: another shape, none at all, or a point that is not on the output.
    """
    found = torch.as_tensor(points, device=image.device)
    if found.ndim not in (2, 3) or found.shape[-1] != 2 or found.shape[-2] == 0:
        raise ValueError(f"points must have shape (N, 2) or (B, N, 2) with N > 0, got {tuple(found.shape)}")
    if found.ndim == 3 and len(found) != len(image):
        raise ValueError(f"batch sizes differ: image has {len(image)}, points have {len(found)}")
    if found.is_floating_point() or found.is_complex() or found.dtype == torch.bool:
        raise TypeError(
            f"points must be whole pixels (x, y) of the output, got {found.dtype}; "
            "multiply fractions by (W, H) and round down"
        )
    found = found.long()
    outside = (found < 0) | (found >= found.new_tensor((size[1], size[0])))
    if outside.any():
        x, y = found[outside.any(-1)][0].tolist()
        raise ValueError(f"point (x={x}, y={y}) is not on the output, {size[1]} wide and {size[0]} high")
    return found.expand(len(image), -1, -1)


def check_buffer(
    output: Any, image: Tensor, features: Tensor | Mapping[str, Tensor], like: Tensor, size: tuple[int, int]
) -> None:
    """Require a tensor that a result can be written to without touching what it is computed from.

    Args:
        output: of the caller.
        image, features: what the result is computed from.
        like: features in the space of the output.
        size: (H, W) of the result.

    Raises:
        TypeError: no tensor, or of another dtype than the features.
        ValueError: another shape than (B, C, H, W), neither on the device of the features nor on the CPU, part of a
            graph, or without memory of its own.
    """
    if not isinstance(output, Tensor):
        hint = "; torch.from_numpy(...) shares its memory" if hasattr(output, "__array__") else ""
        raise TypeError(f"output must be a torch tensor to write to, got {type(output).__name__}{hint}")
    expected = (image.shape[0], like.shape[1], *size)
    if tuple(output.shape) != expected:
        raise ValueError(f"output has shape {tuple(output.shape)} but the result has {expected}")
    if output.dtype != like.dtype:
        raise TypeError(f"output is {output.dtype} but the result is {like.dtype}, as the features are")
    if output.device not in (like.device, torch.device("cpu")):
        raise ValueError(f"output is on {output.device}; it must be on {like.device} or on the CPU")
    if output.requires_grad:
        raise ValueError("output requires gradients; a buffer that is written to must not")
    if torch.compiler.is_compiling() or output.is_meta:
        return  # nothing has an address there
    if any(stride == 0 and count > 1 for stride, count in zip(output.stride(), output.shape, strict=True)):
        raise ValueError(
            "output is expanded: several of its values are one place in memory; pass a full buffer"
        )
    low, high = _addresses(output)
    for given in (image, *(features.values() if isinstance(features, Mapping) else (features,))):
        first, last = _addresses(given)
        if output.device == given.device and low < last and first < high:
            raise ValueError("output shares memory with the image or the features; pass a buffer of its own")


def _addresses(tensor: Tensor) -> tuple[int, int]:
    """Address of the first byte of a tensor that is not empty, and of the one behind its last."""
    reach = sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.data_ptr(), tensor.data_ptr() + (reach + 1) * tensor.element_size()


def check_output(output: Any, image: Tensor, features: Tensor, size: tuple[int, int], name: str) -> Tensor:
    """What a method returned, unchanged, if it is what it should be.

    Args:
        output: of the method.
        image, features: what it was given; ``features`` in the space of the output.
        size: (H, W) that was asked for.
        name: of the method, for messages.

    Raises:
        TypeError: no tensor, or of another dtype than the features.
        ValueError: another shape than (B, C, H, W), or another device than the image's.
    """
    if not isinstance(output, Tensor):
        raise TypeError(f"{name} returned {type(output).__name__} instead of a tensor; tell its author")
    if torch.compiler.is_compiling():
        return output  # sizes may be symbols there, and comparing would pin them
    expected = (image.shape[0], features.shape[1], *size)
    if tuple(output.shape) != expected:
        raise ValueError(
            f"{name} returned shape {tuple(output.shape)} where {expected} was asked for; tell its author"
        )
    if output.dtype != features.dtype and not torch.is_autocast_enabled(image.device.type):
        raise TypeError(f"{name} returned {output.dtype} for features of {features.dtype}; tell its author")
    if output.device != image.device:
        raise ValueError(f"{name} returned a map on {output.device}, not on {image.device}; tell its author")
    return output

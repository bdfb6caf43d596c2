"""Loading models larger than half of the memory: built without storage, filled tensor by tensor.

The usual way holds the model in float32, then the whole state dict beside it. Here the model is built on the
meta device, each tensor is read from its shard, cast and put in place, so that the peak is the weights in the
wanted precision and one tensor.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import WeightsError

if TYPE_CHECKING:
    import torch
    from torch import nn

INDEX = "model.safetensors.index.json"


def shards(path: Path) -> list[Path]:
    """The safetensors files behind ``path``: itself, or those an index names.

    Raises:
        WeightsError: the index is unreadable, or names a file that is missing or lies elsewhere.
    """
    if not path.name.endswith(".index.json"):
        return [path]
    try:
        names = sorted(set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values()))
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise WeightsError(f"{path}: not a safetensors index ({type(error).__name__}: {error})") from error
    for name in names:
        if Path(name).name != name:
            raise WeightsError(f"{path}: names a file outside its folder: {name!r}")
        if not path.with_name(name).is_file():
            raise WeightsError(f"{path}: shard {name} is missing; fetch the weights again")
    return [path.with_name(name) for name in names]


def tensors(path: Path) -> Iterator[tuple[str, Callable[[torch.dtype, Any], torch.Tensor]]]:
    """(name, reader) of every tensor in the files behind ``path``.

    ``reader(dtype, device)`` returns a copy, floating-point values cast to ``dtype``; it raises ValueError for NaN
    or infinite ones.

    Raises:
        WeightsError: a damaged file.
    """
    import torch
    from safetensors import SafetensorError, safe_open

    def read(file: Path, name: str, dtype: torch.dtype, device: Any) -> torch.Tensor:
        # Opened anew each time: pages of a mapping that stays open would count, and pile up, as ours.
        with safe_open(file, "pt") as opened:
            mapped = opened.get_tensor(name)
            if not mapped.is_floating_point():
                return mapped.to(device, copy=True)
            # A sum is not finite if any value is not; only then is the (large) mask worth its memory.
            if not torch.isfinite(mapped.sum(dtype=torch.float32)) and not torch.isfinite(mapped).all():
                raise ValueError(f"{name} contains NaN or infinite values")
            return mapped.to(device, dtype, copy=True)

    for file in shards(path):
        try:
            with safe_open(file, "pt") as opened:
                names = list(opened.keys())
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{file}: not a valid safetensors file ({error}); fetch it again") from error
        for name in names:
            yield name, functools.partial(read, file, name)


def stream_into(model: nn.Module, path: Path, dtype: torch.dtype, device: Any, what: str) -> None:
    """Fill a model built on the meta device from safetensors files.

    Args:
        model: its class has ``stream_key(name) -> key of its state_dict, or None for tensors it does
            without``. Buffers that no file holds are filled by ``init_non_persistent_buffers()`` of the
            module they belong to.
        path: a safetensors file or index.
        dtype: of floating-point weights.
        device: where they go; default the CPU.

    Raises:
        WeightsError: names missing, unexpected or misshapen keys, or one with NaN.
    """
    import torch

    stream_key: Callable[[str], str | None] = model.stream_key  # pyright: ignore[reportAssignmentType]
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    problems: list[str] = []
    for name, read in tensors(path):
        key = stream_key(name)
        if key is None:
            continue
        if key not in expected:
            problems.append(f"unexpected {name}")
            continue
        try:
            value = read(dtype, device)
        except ValueError as error:
            raise WeightsError(f"{what}: {error}") from error
        shape = expected.pop(key)
        if tuple(value.shape) != shape:
            problems.append(f"{name} has shape {tuple(value.shape)}, expected {shape}")
            continue
        model.load_state_dict({key: value}, strict=False, assign=True)
    # Batch counters are not needed and often left out (Keras, TensorFlow); they count from zero.
    counters = [key for key in expected if key.endswith("num_batches_tracked")]
    model.load_state_dict(
        {key: torch.zeros((), dtype=torch.long) for key in counters}, strict=False, assign=True
    )
    problems += [f"missing {key}" for key in expected if key not in counters]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(f"{what} do not fit this model: {'; '.join(problems[:3])}{more}")
    fill_buffers(model, device)
    empty = [key for key, value in (*model.named_parameters(), *model.named_buffers()) if value.is_meta]
    if empty:
        raise WeightsError(f"{what}: nothing fills {', '.join(empty[:3])}")


def fill_buffers(model: nn.Module, device: Any) -> None:
    """Give buffers that are still without storage some, and have their modules compute them."""
    import torch

    for module in model.modules():
        fill: Callable[[], None] | None = getattr(module, "init_non_persistent_buffers", None)
        if fill is None:
            continue
        for owner in module.modules():
            for name, buffer in owner.named_buffers(recurse=False):
                if buffer.is_meta:
                    # In its own dtype, not the weights': periods of rotary embeddings stay float32.
                    owner.register_buffer(
                        name, torch.empty_like(buffer, device=device or "cpu"), persistent=False
                    )
        fill()

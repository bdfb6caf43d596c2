"""Loading without a second copy: a model built without storage is filled tensor by tensor.

The usual way draws random weights in float32, then holds the whole state dict beside them. Here the model is
built on the meta device, each tensor is read from its file, cast and put in place, so that the peak is the
weights in the wanted precision and one tensor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import NafHubError, WeightsError
from .progress import progress
from .shards import headers, read

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..interfaces import ForeignWeights, Shape, Step


@contextlib.contextmanager
def unchanged_on_failure(model: nn.Module) -> Iterator[None]:
    """Give ``model`` back the parts it had, should the block fail: weights may make it take others first.

    The values in its tensors are not kept: nothing may have been written into them by then.
    """
    kept = {
        module: {k: v.copy() if isinstance(v, (dict, set)) else v for k, v in vars(module).items()}
        for module in model.modules()
    }
    try:
        yield
    except BaseException:
        for module, attributes in kept.items():
            vars(module).clear()
            vars(module).update(attributes)
        raise


def planned(model: ForeignWeights, shapes: Mapping[str, Shape], what: str) -> Mapping[str, Step] | None:
    """:meth:`naf_hub.ForeignWeights.plan_weights`, which may stumble over shapes that no release ever had.

    Raises:
        WeightsError: they are not for this model.
    """
    try:
        return model.plan_weights(shapes)
    except NafHubError:
        raise
    except Exception as error:  # code of a plugin's, given shapes by whoever made the file
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(f"{what} do not fit this model: {reason}") from error


def check_plan(model: nn.Module, plan: Mapping[str, Step], shapes: Mapping[str, Shape], what: str) -> None:
    """Require that ``plan`` fills ``model``, or a part of one, from a file and leaves nothing over.

    Args:
        model: what is filled.
        plan: key of its state dict -> step; see :class:`naf_hub.ForeignWeights`.
        shapes: of the tensors in the file.
        what: the weights, in words, for messages.

    Raises:
        WeightsError: names missing, unexpected and misshapen keys.
    """
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    problems = [f"missing {key}" for key in expected if key not in plan and not _counter(key)]
    problems += [f"unexpected {key}" for key in plan if key not in expected]
    problems += [
        f"{key} has shape {shapes[name]}, expected {expected[key]}"
        for key, (name, change) in plan.items()
        if key in expected and change is None and shapes[name] != expected[key]
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(
            f"{what} do not fit this model: {'; '.join(problems[:3])}{more}; "
            "load them with the options they were made with"
        )


def _counter(key: str) -> bool:
    """Batch counters are not needed and often left out (Keras, TensorFlow); they count from zero."""
    return key.endswith("num_batches_tracked")


def changed(
    key: str,
    value: torch.Tensor,
    change: Callable[[torch.Tensor], torch.Tensor] | None,
    shape: Shape,
    what: str,
) -> torch.Tensor:
    """A tensor of a file as the model keeps it under ``key``.

    Raises:
        WeightsError: the change gives another shape than ``shape``.
    """
    if change is None:
        return value
    result = change(value).contiguous()
    if tuple(result.shape) != shape:
        raise WeightsError(
            f"{what} do not fit this model: {key} has shape {tuple(result.shape)}, expected {shape}; "
            "load them with the options they were made with"
        )
    return result


def stream_into(model: ForeignWeights, path: Path, dtype: torch.dtype, device: Any, what: str) -> bool:
    """Fill a model built on the meta device from safetensors files, tensor by tensor, as it plans it.

    Buffers that no file holds are filled by ``init_non_persistent_buffers()`` of the module they belong to, or of one
    around it.

    Args:
        model: built on the meta device.
        path: a safetensors file or index.
        dtype: of floating-point weights.
        device: where they go; default the CPU.
        what: the weights, in words, for messages.

    Returns:
        Whether that was possible. Where not, the model is of no use: build it with storage and load all.

    Raises:
        WeightsError: names missing, unexpected or misshapen keys, or one with NaN.
    """
    import torch

    found = headers(path)
    shapes = {name: shape for name, (_, shape) in found.items()}
    plan = planned(model, shapes, what)
    if plan is None or not _fillable(model):
        return False
    check_plan(model, plan, shapes, what)
    expected = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    total = sum(file.stat().st_size for file in {found[name][0] for name, _ in plan.values()})
    with progress(total, "loading") as done:
        for key, (name, change) in plan.items():
            try:
                value = read(found[name][0], name, dtype, device)
            except ValueError as error:
                raise WeightsError(f"{what}: {error}") from error
            value = changed(key, value, change, expected[key], what)
            model.load_state_dict({key: value}, strict=False, assign=True)
            done(round(total / len(plan)))
    zero = torch.zeros((), dtype=torch.long, device=device)
    counters = [key for key in expected if key not in plan]
    model.load_state_dict({key: zero.clone() for key in counters}, strict=False, assign=True)
    return fill_buffers(model, device)


def _missing(module: nn.Module) -> Iterator[str]:
    """Names of the module's own buffers that no file holds and that have no storage."""
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_meta and name in module._non_persistent_buffers_set:
            yield name


def _fillable(model: nn.Module) -> bool:
    """Whether everything that no file holds is a buffer with a module that can compute it."""
    import torch

    filled = {
        inner for m in model.modules() if hasattr(m, "init_non_persistent_buffers") for inner in m.modules()
    }
    return not any(
        (module not in filled and any(_missing(module)))
        or any(isinstance(value, torch.Tensor) and value.is_meta for value in vars(module).values())
        for module in model.modules()
    )


def _mark(dtype: torch.dtype) -> float | int | bool:
    """What no buffer holds once it was computed (for booleans there is no such value)."""
    import torch

    if dtype.is_floating_point or dtype.is_complex:
        return float("nan")
    return dtype != torch.bool and torch.iinfo(dtype).min


def _marked(buffer: torch.Tensor) -> bool:
    import torch

    if buffer.dtype == torch.bool:
        return False
    mark = _mark(buffer.dtype)
    return bool((buffer.isnan() if mark != mark else buffer == mark).any())


def fill_buffers(model: nn.Module, device: Any) -> bool:
    """Give buffers that are still without storage some, and have their modules compute them.

    Returns:
        Whether nothing is left without values.
    """
    import torch

    given: list[torch.Tensor] = []
    for module in model.modules():
        fill: Callable[[], None] | None = getattr(module, "init_non_persistent_buffers", None)
        if fill is None:
            continue
        for owner in module.modules():
            for name in list(_missing(owner)):
                # In its own dtype, not the weights': periods of rotary embeddings stay float32.
                empty = owner.get_buffer(name)
                buffer = torch.full_like(empty, _mark(empty.dtype), device=device or "cpu")
                owner.register_buffer(name, buffer, persistent=False)
                given.append(buffer)
        fill()
    held = [*model.parameters(), *model.buffers()]
    # A module may put another tensor in the place of one given to it.
    stale = {id(buffer) for buffer in given if _marked(buffer)}
    return not any(value.is_meta or id(value) in stale for value in held)

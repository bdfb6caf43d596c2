"""Loading without a second copy: a model built without storage is filled tensor by tensor.

The usual way draws random weights in float32, then holds the whole state dict beside them. Here the model is
built on the meta device, each tensor is read from its file, cast and put in place, so that the peak is the
weights in the wanted precision and one tensor.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import WeightsError
from .progress import progress

if TYPE_CHECKING:
    import torch
    from torch import nn

    from ..interfaces import ForeignWeights, Shape, Step

# How the text file starts that stands for a large file where git was used without its LFS extension.
LFS_POINTER = b"version https://git-lfs.github.com/spec/"


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


def not_safetensors(file: Path, error: object) -> WeightsError:
    """What to tell of a file that should hold tensors and does not."""
    try:
        with file.open("rb") as opened:
            pointer = opened.read(len(LFS_POINTER)) == LFS_POINTER
    except OSError:
        pointer = False
    if pointer:
        return WeightsError(f"{file}: a Git LFS pointer in place of the weights; fetch them: git lfs pull")
    return WeightsError(f"{file}: not a valid safetensors file ({error}); fetch or convert it again")


def headers(path: Path) -> dict[str, tuple[Path, Shape]]:
    """(file, shape) of every tensor in the files behind ``path``, by name; no values are read.

    Raises:
        WeightsError: a damaged file.
    """
    from safetensors import SafetensorError, safe_open

    found: dict[str, tuple[Path, Shape]] = {}
    for file in shards(path):
        try:
            with safe_open(file, "pt") as opened:
                found |= {name: (file, tuple(opened.get_slice(name).get_shape())) for name in opened.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise not_safetensors(file, error) from error
    return found


def read(file: Path, name: str, dtype: torch.dtype, device: Any) -> torch.Tensor:
    """A copy of one tensor, floating-point values cast to ``dtype``.

    Raises:
        ValueError: it contains NaN or infinite values.
    """
    import torch
    from safetensors import safe_open

    # Opened anew each time: pages of a mapping that stays open would count, and pile up, as ours.
    with safe_open(file, "pt") as opened:
        mapped = opened.get_tensor(name)
        if not mapped.is_floating_point():
            return mapped.to(device, copy=True)
        # A sum is not finite if any value is not; only then is the (large) mask worth its memory.
        if not torch.isfinite(mapped.sum(dtype=torch.float32)) and not torch.isfinite(mapped).all():
            raise ValueError(f"{name} contains NaN or infinite values")
        return mapped.to(device, dtype, copy=True)


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
    plan = model.plan_weights(shapes)
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

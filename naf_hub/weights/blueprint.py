"""What a model would be, before a config from anywhere decides how long building it takes and how much it fills.

A model is first built on the meta device, where tensors have shapes and no storage, and compared with the header of
the file that is to fill it.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import WeightsError
from ..interfaces import ForeignWeights
from .config_json import damaged
from .fill import check_plan
from .shards import headers

# A model may hold what its file lacks (tables of positions, masks), and take more steps than it has tensors (initial
# values); by far not as much as would be felt.
SPARE_NUMBERS = 1 << 24
SPARE_CALLS = 20_000
CALLS_PER_TENSOR = 100
LARGEST_COUNT = 1 << 16


class Effort(TorchFunctionMode):
    """Ends a constructor that calls torch more often than a model of as many tensors has reason to.

    Args:
        tensors: how many the file holds.
        what: the weights, in words, for messages.
    """

    def __init__(self, tensors: int, what: str) -> None:
        super().__init__()
        self.left = SPARE_CALLS + CALLS_PER_TENSOR * tensors
        self.what = what

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.left -= 1
        if self.left < 0:
            raise WeightsError(
                f"{self.what} do not fit this model: its options make more layers than the file could fill"
            )
        return func(*args, **(kwargs or {}))


def blueprint(construct: Callable[[], nn.Module], file: Path, what: str) -> nn.Module:
    """The model without storage, if the file could fill it.

    Args:
        construct: makes the model.
        file: safetensors file or index that is to fill it; only its header is read.
        what: the weights, in words, for messages.

    Raises:
        WeightsError: the model has far more numbers than the file, or (unless it plans for itself, see
            :class:`naf_hub.ForeignWeights`) other names and shapes.
    """
    shapes = {name: shape for name, (_, shape) in headers(file).items()}
    what = f"{what} ({file})"
    with torch.device("meta"), Effort(len(shapes), what):
        model = construct()
    if not isinstance(model, ForeignWeights):
        check_plan(model, {name: (name, None) for name in shapes}, shapes, what)
    held = sum(value.numel() for value in (*model.parameters(), *model.buffers()))
    if held > 4 * sum(map(_numbers, shapes.values())) + SPARE_NUMBERS:
        raise WeightsError(f"{what} do not fit this model: it has {held:,} numbers, far more than the file")
    return model


def _numbers(shape: Iterable[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def check_counts(target: Callable[..., Any], options: Mapping[str, Any], config: Path, file: Path) -> None:
    """Require that no option of a config is a count or size beyond what its file could hold.

    Args:
        target: what is called with the options. Where it says that an option is a float, or may be text (bytes, as
            in ``"64MiB"``), it is not taken for a count.
        options: what the config says.
        config, file: where it says so, and the weights.

    Raises:
        WeightsError: names the option.
    """
    most = max([LARGEST_COUNT, *(side for _, shape in headers(file).values() for side in shape)])
    free = {key for key, kind in _annotations(target).items() if "float" in kind or "str" in kind}
    for key, value in options.items():
        if key not in free and any(abs(number) > most for number in _integers(value)):
            raise damaged(config, f"options: {key}", value)


def _annotations(target: Callable[..., Any]) -> dict[str, str]:
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return {}
    return {name: str(parameter.annotation) for name, parameter in parameters.items()}


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, (list, dict)):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _integers(inner)

"""Which tensors of a checkpoint are the weights of a model, and of which registered model they are."""

from __future__ import annotations

import dataclasses
import logging
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..construction import construct
from ..errors import WeightsError
from ..records import BackboneRecord, Record
from ..registry import registry
from .files import plan_for
from .fill import unchanged_on_failure
from .pickles import state_dicts, under

if TYPE_CHECKING:
    from torch import Tensor, nn

log = logging.getLogger("naf_hub")

INITIALISERS = frozenset({"add_", "clamp_", "erfinv_", "fill_", "mul_", "normal_", "uniform_", "zero_"})


@dataclasses.dataclass(frozen=True)
class Part:
    """Tensors of a checkpoint that may be a state dict.

    Attributes:
        keys: under which they lie, outermost first; the last may be what their names began with.
        state: the tensors by name, without that beginning.
        beside: names of the tensors in the same mapping that are not among them.
    """

    keys: tuple[str, ...]
    state: dict[str, Tensor]
    beside: tuple[str, ...] = ()

    @property
    def option(self) -> str:
        """What ``naf-hub convert`` takes to choose this part."""
        return " ".join(f"--key {shlex.quote(key)}" for key in self.keys)


def parts_of(data: Any, keys: Sequence[str], least: int) -> Iterator[Part]:
    """The parts of a checkpoint, in its order: each mapping that holds tensors, whole before what begins alike in it.

    Args:
        data: a mapping.
        keys: under which it lies in the file.
        least: tensors that names must have in common a beginning for, to count as a part.
    """
    for place, state in state_dicts(data):
        yield Part((*keys, *place), state)
        shared = Counter(
            name[:end] for name in state for end, letter in enumerate(name) if letter == "." and end
        )
        for start, count in sorted(shared.items(), key=lambda item: (-item[1], len(item[0]))):
            if count >= least:
                inner = {
                    k.removeprefix(f"{start}."): v for k, v in state.items() if k.startswith(f"{start}.")
                }
                beside = tuple(k for k in state if not k.startswith(f"{start}."))
                yield Part((*keys, *place, start), inner, beside)


def build_empty(record: Record, options: Mapping[str, Any]) -> nn.Module:
    """The model of a record, without storage where its constructor can do without.

    Raises:
        PluginError, TypeError: see :func:`naf_hub.construction.construct`.
    """
    import torch
    from torch.overrides import TorchFunctionMode

    class Uninitialised(TorchFunctionMode):
        """Most of the time that a model without storage takes to build, its values are drawn that it has not."""

        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            drawn = getattr(func, "__name__", "") in INITIALISERS and args and args[0].is_meta
            return args[0] if drawn else func(*args, **(kwargs or {}))

    try:
        with torch.device("meta"), Uninitialised():
            return construct(record, options)
    except Exception:  # a constructor that looks at values; what else is wrong with it will be told again
        return construct(record, options)


def fitting_parts(
    record: Record, options: Mapping[str, Any], data: Any, keys: Sequence[str] | None, source: Path
) -> list[Part]:
    """The parts of a checkpoint that are weights of a record's model, in the order of the file.

    Args:
        record: whose model.
        options: constructor options beside the record's own.
        data: what the file holds.
        keys: where in it to look; default where the record says.
        source: the file, for messages.

    Raises:
        WeightsError: there are none; says what was found, what was expected, and what differs in the nearest part.
    """
    inner, where = _chosen(record, data, keys, source)
    blank = build_empty(record, options)
    expected = dict(blank.state_dict())
    model: nn.Module | None = blank
    fitting: list[Part] = []
    taken: set[int] = set()
    misfits: list[tuple[int, Part, WeightsError]] = []
    # A published layout may have fewer tensors than the model: fused queries, keys and values.
    for part in parts_of(inner, where, least=max(1, len(expected) // 2)):
        if taken & {id(value) for value in part.state.values()}:
            continue  # the same tensors by another way
        model = model or build_empty(record, options)
        try:
            with unchanged_on_failure(model):
                plan_for(model, part.state, str(source))
        except WeightsError as error:
            misfits.append((len(part.state.keys() & expected.keys()), part, error))
        else:
            fitting.append(part)
            taken |= {id(value) for value in part.state.values()}
            model = None  # the weights may have changed its parts
    if not fitting and not misfits:
        raise WeightsError(f"{source}: holds no state dict (a mapping of names to tensors)")
    if not fitting:
        _, nearest, error = max(misfits, key=lambda misfit: misfit[0])
        raise _misfit(record, nearest, expected, error) from error
    return fitting


def _chosen(
    record: Record, data: Any, keys: Sequence[str] | None, source: Path
) -> tuple[Any, tuple[str, ...]]:
    """What lies in a checkpoint where one is told to look, and those keys."""
    if keys:
        return under(data, keys, source, required=True), tuple(keys)
    inner = under(data, record.state_dict_keys, source)
    return inner, () if inner is data else record.state_dict_keys


class OtherShapesError(WeightsError):
    """Weights have the names of a model, and other shapes."""


def _misfit(record: Record, part: Part, expected: Mapping[str, Any], error: WeightsError) -> WeightsError:
    """What to tell of the part that comes nearest."""
    place = f" under {' -> '.join(part.keys)}" if part.keys else ""
    if part.state.keys() == expected.keys():
        return OtherShapesError(f"{error} (--option); the names of all {len(expected)} tensors{place} fit")
    missing = [key for key in expected if key not in part.state]
    strange = [key for key in part.state if key not in expected]
    return WeightsError(
        f"{error} (--option); {record.name} expects {len(expected)} tensors, {len(missing)} of which are not there"
        f"{_few(missing)}; found {len(part.state)}{place}, {len(strange)} of which it does not expect{_few(strange)}"
    )


def _few(names: Sequence[str]) -> str:
    """A few of the names in brackets, or nothing."""
    return f" ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})" if names else ""


def recognise(
    options: Mapping[str, Any], data: Any, keys: Sequence[str] | None, source: Path
) -> tuple[Record, list[Part]]:
    """The only registered record whose model a checkpoint fits, by names and shapes, and the parts that fit.

    Each record with weights is tried on a model without storage. Left out before, without importing their code, are
    records with other ``options`` of their own, and backbones that say how many channels they give where no tensor of
    the file has a side of that length; and, once built, backbones with more than twice the values that the file holds.
    Of records of one class that fit, those are left out whose options are those of another one and more.

    Raises:
        WeightsError: none fits, or several do; names them.
    """
    states = [state for _, state in state_dicts(under(data, keys or (), source, required=True))]
    if not states:
        raise WeightsError(f"{source}: holds no state dict (a mapping of names to tensors)")
    largest, values = max(states, key=len), 2 * max(map(_values, states))
    sides = {side for state in states for value in state.values() for side in value.shape}
    fitting: list[tuple[Record, list[Part]]] = []
    near: list[tuple[Record, WeightsError]] = []
    for record in registry().records.values():
        channels = record.embed_dim if isinstance(record, BackboneRecord) else 0
        if not record.learned or (channels and channels not in sides):
            continue
        if any(record.options.get(key, value) != value for key, value in options.items()):
            continue  # with these options it would be another
        try:
            if channels and _values(build_empty(record, options).state_dict()) > values:
                continue
            fitting.append((record, fitting_parts(record, options, data, keys, source)))
        except OtherShapesError as error:
            near.append((record, error))
        except Exception as error:  # other models' weights; models of plugins may fail in any way
            log.debug("%s is not for %s: %s", source, record.name, error)
    # Records of one class whose tensors are alike differ in what no tensor tells: the plainest is meant.
    fitting = [
        (record, parts)
        for record, parts in fitting
        if not any(
            other.target == record.target and other.options.items() < record.options.items()
            for other, _ in fitting
        )
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = ", ".join(record.name for record, _ in fitting)
        raise WeightsError(f"{source}: fits {len(fitting)} models; say which, by --name: {names}")
    if near:
        names = ", ".join(record.name for record, _ in near)
        raise WeightsError(f"{near[0][1]} those of {names}") from near[0][1]
    raise WeightsError(
        f"{source}: its {len(largest)} tensors{_few(list(largest))} are those of no registered model as it is made by "
        "default; say whose they are by --name (naf-hub list shows all), and with which --option they were made"
    )


def _values(state: Mapping[str, Tensor]) -> int:
    return sum(value.numel() for value in state.values())

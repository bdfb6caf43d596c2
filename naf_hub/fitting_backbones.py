"""Whether a backbone has what an upsampler needs of it, as far as their records say."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import MapError
from .interfaces import Upsampler
from .records import BackboneRecord, Origin, Record
from .registry import registry

if TYPE_CHECKING:
    from torch import nn

# So many names fit a line of a terminal.
SHOWN = 8


def require_maps(record: Record, made_for: str | nn.Module | int | None, options: Mapping[str, Any]) -> None:
    """Refuse a backbone that lacks what an upsampler needs; one whose record does not say is left to ``gather``.

    Args:
        record: of the upsampler; what is no upsampler needs nothing.
        made_for: the backbone's name, or the module; channels alone say nothing.
        options: constructor options of the upsampler.

    Raises:
        MapError: says what is lacking, and which backbones have it.
    """
    method = record.resolve()
    if not (isinstance(method, type) and issubclass(method, Upsampler)):
        return
    inner = any(want.kind != "token" for want in method.wants)
    if not inner and method.lacks.__func__ is Upsampler.lacks.__func__:
        return  # needs nothing, whatever the backbone: a name need not be looked up
    if isinstance(made_for, str):
        behind = registry().find(made_for, BackboneRecord)
    else:
        behind = _as_built(getattr(made_for, "origin", None))
    if not isinstance(behind, BackboneRecord):
        return
    lacking = method.lacks(behind, options)
    if not lacking:
        return
    others = (registry().find(name, BackboneRecord) for name in registry().names(BackboneRecord))
    having = [other.name for other in others if other.network and not method.lacks(other, options)]
    having.sort(key=lambda name: name not in record.weights)  # first those that a set of weights is for
    more = f" and {len(having) - SHOWN} more" if len(having) > SHOWN else ""
    hint = (
        f"backbones that have: {', '.join(having[:SHOWN])}{more}" if having else "no registered backbone has"
    )
    raise MapError(f"backbone {behind.name!r} has no {lacking}, which {record.name} needs; {hint}")


def _as_built(origin: Origin | None) -> Record | None:
    """The record of a backbone, with what was said otherwise as it was made, as a depth of two blocks."""
    record = origin.record if origin else None
    if origin is None or not isinstance(record, BackboneRecord):
        return record
    said = {
        name: origin.options[name] for name in ("embed_dim", "patch_size", "depth") if name in origin.options
    }
    return dataclasses.replace(record, **said)

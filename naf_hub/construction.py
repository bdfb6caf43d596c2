"""A registered model built with constructor options."""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .records import Record
from .typed_values import fitted_keywords

if TYPE_CHECKING:
    from torch import nn


def construct(record: Record, options: Mapping[str, Any]) -> nn.Module:
    """The model of a record, with constructor options over the record's own.

    Raises:
        TypeError: an option that it does not have, that is missing or of the wrong type; says which, and what it takes.
        PluginError: its target cannot be imported.
    """
    target, owner = record.resolve(), f"{record.kind} {record.name!r}"
    chosen = {**record.options, **fitted_keywords(target, options, owner)}
    parameters = inspect.signature(target).parameters
    for name, parameter in parameters.items():
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if named and parameter.default is parameter.empty and name not in chosen:
            raise TypeError(f"{owner} needs the option {name!r}")
    handed_on = {key: value for key, value in chosen.items() if key not in parameters}
    try:
        return target(**chosen)
    except (TypeError, AttributeError, AssertionError) as error:
        strange = re.search(r"unexpected keyword argument '(\w+)'", str(error))
        if strange and strange[1] in options:
            raise TypeError(f"{owner} has no option {strange[1]!r}") from error
        if handed_on:  # to another library, whose message may name none of them
            shown = ", ".join(f"{key} = {value!r}" for key, value in handed_on.items())
            raise TypeError(
                f"{owner} cannot be built with {shown} ({type(error).__name__}: {error})"
            ) from error
        if isinstance(error, TypeError):
            raise TypeError(f"{owner}: {error}") from error
        raise

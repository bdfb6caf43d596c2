"""JSON from anywhere (configs, indexes, lock files), read so that none costs more than its one line of refusal."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import WeightsError

LARGEST = 1_000_000
DEEPEST = 32


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file: strict UTF-8, each key once, finite numbers.

    Raises:
        WeightsError: unreadable, larger than ``LARGEST`` bytes, nested deeper than ``DEEPEST``, or no such object.
    """
    try:
        with path.open("rb") as file:
            content = file.read(LARGEST + 1)
        if len(content) > LARGEST:
            raise ValueError(f"larger than {LARGEST:,} bytes")
        found = json.loads(
            content.decode(), object_pairs_hook=_object, parse_constant=_finite, parse_float=_finite
        )
        _check(found)
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"{path}: not a readable JSON file ({' '.join(str(error).split())})") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path}: not a readable JSON file (no object, but {type(found).__name__})")
    return found


def plain_data(value: Any) -> Any:
    """The value as it comes back from JSON; numbers that are not finite are ``None``."""
    if isinstance(value, Mapping):
        return {str(key): plain_data(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain_data(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in found if keys.count(key) > 1)
        raise ValueError(f"key {twice[:80]!r} is there twice")
    return found


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text[:80]} is no finite number")
    return value


def _check(found: Any) -> None:
    waiting = [(found, 1)]
    while waiting:
        value, depth = waiting.pop()
        if isinstance(value, str):
            value.encode()  # half a surrogate pair can be neither printed nor be part of a name
        elif isinstance(value, (dict, list)):
            if depth > DEEPEST:
                raise ValueError(f"nested deeper than {DEEPEST}")
            inner = [*value, *value.values()] if isinstance(value, dict) else value
            waiting += [(each, depth + 1) for each in inner]

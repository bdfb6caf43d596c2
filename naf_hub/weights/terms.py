"""What the licence of published weights asks of whoever loads them, told once."""

from __future__ import annotations

import logging
from typing import Any

from ..records import Record

log = logging.getLogger("naf_hub")

_told: set[tuple[str, str]] = set()


def tell_terms(record: Record, weights: Any) -> None:
    """Log one line, once in a process, where a named set of weights is not free for every use."""
    found = record.weights.get(weights) if isinstance(weights, str) else None
    if found is None or found.license is None or found.free:
        return
    if (record.name, weights) not in _told:
        _told.add((record.name, weights))
        log.warning(
            "%s weights %r: licence %s, not free for every use; read its terms (%s)",
            record.name, weights, found.license, found.source,
        )  # fmt: skip

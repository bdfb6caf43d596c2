"""What the licence of published weights asks of whoever loads them, told once."""

from __future__ import annotations

import logging
import re
from typing import Any

from ..records import Record

log = logging.getLogger("naf_hub")

# Licences that allow every use, some of them for naming the authors. SPDX identifiers, in the Hub's spelling too.
FREE = re.compile(
    r"apache-2\.0|mit(-0)?|bsd-[23]-clause|isc|cc0-1\.0|cc-by(-sa)?-[34]\.0|unlicense|0bsd", re.I
)
_told: set[tuple[str, str]] = set()


def tell_terms(record: Record, weights: Any) -> None:
    """Log one line, once in a process, where a named set of weights is not free for every use."""
    found = record.weights.get(weights) if isinstance(weights, str) else None
    if found is None or found.license is None or FREE.fullmatch(found.license):
        return
    if (record.name, weights) not in _told:
        _told.add((record.name, weights))
        log.warning(
            "%s weights %r: licence %s, not free for every use; read its terms (%s)",
            record.name, weights, found.license, found.source,
        )  # fmt: skip

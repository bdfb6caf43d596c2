"""Memory budgets: how callers write them, and how work is cut to fit."""

from __future__ import annotations

import re

UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def parse_bytes(memory: int | str) -> int:
    """Bytes of a budget given as an int or as text such as ``"512MiB"`` or ``"2 GB"``.

    Raises:
        ValueError: not a positive amount.
    """
    if isinstance(memory, str):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmg]?i?)b?\s*", memory.lower())
        amount = int(float(match[1]) * UNITS.get(match[2], 0)) if match else 0
    else:
        amount = memory if isinstance(memory, int) and not isinstance(memory, bool) else 0
    if amount < 1:
        raise ValueError(f"memory must be a positive number of bytes or text like '512MiB', got {memory!r}")
    return amount


def working_memory(memory: int | None, device: str) -> int:
    """The budget in bytes: ``memory`` if given, else what suits the kind of device."""
    if memory is not None:
        return memory
    return 2**26 if device == "cpu" else 2**31  # CPUs gain from caches, accelerators from large launches

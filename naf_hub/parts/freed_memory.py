"""Memory that was freed, given back to the system."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

# What may be allocated before what was freed of it is given back: each time costs milliseconds.
OFTEN = 2**28


@functools.cache
def _trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform.startswith("linux") else None


def return_freed_memory() -> None:
    """Give what was freed back to the system, where the C library can (glibc)."""
    trim = _trim()
    if trim is not None:
        trim(0)


class Allocated:
    """Counts what long loops allocate, and gives freed memory back from time to time.

    Before its release 2.38 glibc does not find a block again that it aligned and that was freed, if its neighbours
    are in use: tensors of a few MB and of changing sizes, allocated and freed in turn, had a process grow to 17 GiB
    that needed one.
    """

    def __init__(self) -> None:
        self.bytes = 0

    def add(self, count: int) -> None:
        """Note that so many bytes were allocated on the CPU."""
        self.bytes += count
        if self.bytes >= OFTEN:
            self.bytes = 0
            return_freed_memory()

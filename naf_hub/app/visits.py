"""What the page keeps of its visitors while they are there: features in memory, files in one private folder."""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")
MOST = 4
"""Visitors whose features are kept at once; one photo's may take a gigabyte."""


class Visits(Generic[T]):
    """The visits that are open.

    Args:
        folder: where every file of the page lies; emptied when the last visitor leaves.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._open: set[str] = set()
        self._kept: OrderedDict[str, T] = OrderedDict()

    def enter(self, visit: str) -> None:
        """A page was opened."""
        with self._lock:
            self._open.add(visit)

    def keep(self, visit: str, photo: T) -> None:
        """Keep this instead of what the visit had; of more than :data:`MOST` the longest unused goes."""
        with self._lock:
            self._open.add(visit)
            self._kept[visit] = photo
            self._kept.move_to_end(visit)
            while len(self._kept) > MOST:
                self._kept.popitem(last=False)

    def of(self, visit: str) -> T:
        """What the visit has.

        Raises:
            ValueError: nothing (any more).
        """
        with self._lock:
            if visit not in self._kept:
                raise ValueError("no features yet: drop a photo, or press Upsample again")
            self._kept.move_to_end(visit)
            return self._kept[visit]

    def leave(self, visit: str) -> None:
        """A page was closed: forget its features, and with the last one every file."""
        with self._lock:
            self._kept.pop(visit, None)
            self._open.discard(visit)
            if not self._open:
                for entry in self.folder.iterdir():
                    shutil.rmtree(entry, ignore_errors=True) if entry.is_dir() else entry.unlink()

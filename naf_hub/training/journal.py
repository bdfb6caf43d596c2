"""The run's log: one JSON object a line, one line an event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..atomic import atomic_file


class Journal:
    """Appends events to ``path``; each line is on its way to the disk when :meth:`write` returns.

    Args:
        path: the file.
        writes: whether this process writes it; of several, one does.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path, self.writes = path, writes

    def write(self, event: str, **values: Any) -> None:
        if not self.writes:
            return
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"event": event, **values}) + "\n")

    def start(self, **values: Any) -> None:
        """Begin a new log; an older one is kept as ``log-1.jsonl``, or with the next number that is free."""
        if self.writes and self.path.is_file() and self.path.stat().st_size:
            number = 1
            while (kept := self.path.with_name(f"{self.path.stem}-{number}{self.path.suffix}")).exists():
                number += 1
            self.path.rename(kept)
        self.write("start", step=0, **values)

    def rewind(self, step: int) -> None:
        """Drop what was logged after ``step``, which a continued run will log again."""
        if not self.writes:
            return
        kept = [line for line in self.lines() if line.get("step", 0) <= step]
        with atomic_file(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def lines(self) -> list[dict[str, Any]]:
        """Every whole line; a line cut short by a kill is left out."""
        found: list[dict[str, Any]] = []
        text = self.path.read_text(encoding="utf-8") if self.path.is_file() else ""
        for line in text.splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

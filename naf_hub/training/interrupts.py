"""Ctrl-C once: finish the step, save, leave. Twice: leave at once."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any


class StopRequest:
    """A context in which the first SIGINT or SIGTERM only sets :attr:`signal`; the second acts as usual."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python delivers signals to the main thread alone, and only there may handlers be set.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = number
        self._restore()

    def flags(self) -> tuple[bool, bool]:
        """Whether this process got SIGINT, SIGTERM."""
        return self.signal == signal.SIGINT, self.signal == signal.SIGTERM

    @staticmethod
    def signal_of(flags: Sequence[float]) -> int:
        """The signal that any process got, by the sum or mean of their :meth:`flags`; 0 for none."""
        interrupted, terminated = flags
        return signal.SIGTERM if terminated else signal.SIGINT if interrupted else 0

    @staticmethod
    def leave(number: int) -> None:
        """Leave as the signal asked: ``KeyboardInterrupt`` (exit 130) or exit 143."""
        if number == signal.SIGTERM:
            raise SystemExit(128 + signal.SIGTERM)
        raise KeyboardInterrupt


def leave_signals_to_parent(_: int) -> None:
    """For worker processes: a terminal sends Ctrl-C to all of them, but the parent decides when to end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)

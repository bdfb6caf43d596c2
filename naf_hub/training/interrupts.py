"""Ctrl-C once: finish the step, save, leave. Twice: leave at once. So do the signals of systems and schedulers."""

from __future__ import annotations

import signal
import threading
from collections.abc import Sequence
from types import FrameType, TracebackType
from typing import Any

# Ctrl-C; what ends a process; a closed terminal or connection; what Slurm sends ahead of the end of a job on request.
# Windows has the first two.
SIGNALS: tuple[int, ...] = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)
)


class StopRequest:
    """A context in which the first of :data:`SIGNALS` only sets :attr:`signal`; the second acts as usual.

    Where SIGHUP is ignored it stays so: ``nohup`` has the run outlive its terminal.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopRequest:
        # Python delivers signals to the main thread alone, and only there may handlers be set.
        if threading.current_thread() is threading.main_thread():
            for number in SIGNALS:
                ignored = signal.getsignal(number) is signal.SIG_IGN
                if not (ignored and number == getattr(signal, "SIGHUP", None)):
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

    def flags(self) -> tuple[bool, ...]:
        """Whether this process got each of :data:`SIGNALS`."""
        return tuple(self.signal == number for number in SIGNALS)

    @staticmethod
    def signal_of(flags: Sequence[float]) -> int:
        """The signal that any process got, by the sum or mean of their :meth:`flags`; 0 for none."""
        return next((number for number, flag in zip(SIGNALS[::-1], flags[::-1], strict=True) if flag), 0)

    @staticmethod
    def leave(number: int) -> None:
        """Leave as the signal asked: ``KeyboardInterrupt`` (exit 130), or exit 128 and its number."""
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        raise SystemExit(128 + number)


def leave_signals_to_parent(_: int) -> None:
    """For worker processes: terminals and schedulers send signals to all of them, but the parent decides when to end.

    A worker ends when its parent tells it to or is gone.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)

"""What one process at a time may use, by a lock of the system that ends with its process."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import socket
import sys
import weakref
from pathlib import Path
from typing import Any

import psutil

log = logging.getLogger("naf_hub")

LOCK = ".run.lock"
# Windows lets nobody read a locked byte: it lies far behind the note of who holds the lock.
LOCKED_BYTE = 1 << 20
TAKEN = {errno.EACCES, errno.EAGAIN, errno.EDEADLK}

if sys.platform == "win32":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class InUse(Exception):
    """Another process uses it; the text says which, as far as it is known."""


class Exclusive:
    """The use of ``folder`` by this process, once :meth:`take` has returned, until :meth:`release`.

    With a ``name`` it is the use of what that stands for in the folder.

    ``flock`` on Unix, ``LockFile`` (by ``msvcrt.locking``) on Windows: the system takes either back when the process
    ends, however it ends. Linux passes ``flock`` on to the server of a network disk. Where a disk has no locks, the
    note in the file keeps out other processes of the same machine, and a warning says that those of others are not.
    """

    def __init__(self, folder: Path, name: str = LOCK) -> None:
        self.path = folder / name
        self._descriptor: int | None = None

    def take(self) -> None:
        """Take the lock, unless it is held already.

        Raises:
            InUse: another process, or another object of this one, holds it.
            OSError: the file cannot be written.
        """
        if self._descriptor is not None:
            return
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            try:
                _lock(descriptor)
            except OSError as error:
                if error.errno in TAKEN:
                    raise InUse(_describe(_read(descriptor))) from error
                self._go_without(descriptor, error)
            _write(descriptor, {"pid": os.getpid(), "host": socket.gethostname()})
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        _held.add(self)

    def _go_without(self, descriptor: int, error: OSError) -> None:
        holder = _read(descriptor)
        here, pid = holder.get("host") == socket.gethostname(), holder.get("pid")
        if here and isinstance(pid, int) and pid != os.getpid() and psutil.pid_exists(pid):
            raise InUse(_describe(holder))
        log.warning(
            "%s: this disk has no locks (%s): see to it that no other machine writes to this folder",
            self.path.parent,
            error.strerror,
        )

    def release(self) -> None:
        """Let others use the folder."""
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                _write(self._descriptor, {})
        self._forget()

    def _forget(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __del__(self) -> None:
        self.release()


_held: weakref.WeakSet[Exclusive] = weakref.WeakSet()


def _forget_inherited() -> None:
    # A worker that outlives its parent would go on holding the lock.
    for lock in list(_held):
        lock._forget()  # pyright: ignore[reportPrivateUsage]


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_inherited)


def _read(descriptor: int) -> dict[str, Any]:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        note = json.loads(os.read(descriptor, 4096))
    except (OSError, ValueError):
        return {}
    return note if isinstance(note, dict) else {}


def _write(descriptor: int, note: dict[str, Any]) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.ftruncate(descriptor, 0)
    os.write(descriptor, json.dumps(note).encode())


def _describe(holder: dict[str, Any]) -> str:
    if "pid" not in holder:
        return "another process"
    return f"process {holder['pid']} on {holder.get('host', 'an unknown machine')}"

"""Writes that happen whole or not at all: temporary name beside the target, fsync, rename.

A temporary name tells which process of which machine made it, so that what a killed one left behind is recognised
and removed by the next write to the same place, and never what a living one is still writing.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path


def _sync(path: Path) -> None:
    # Windows flushes only what is open for writing.
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    # Windows cannot open a folder; there the rename alone has to do.
    with contextlib.suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _permissions(wanted: int) -> int:
    """``wanted`` as the user's umask lets it be; temporary files are made private, results follow the user."""
    umask = os.umask(0)
    os.umask(umask)
    return wanted & ~umask


@functools.cache
def _machine() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def _prefix(target: Path) -> str:
    """Start of the temporary names for a target; short in bytes, whatever the target is called."""
    name = target.name.encode()[:64].decode(errors="ignore")
    return f".{name}.{_machine()}-"


def remove_stale(target: Path) -> None:
    """Remove what killed processes of this machine left half-written beside ``target``.

    Each write to ``target`` does so first. A folder that was caught while it was replaced is put back.
    """
    import psutil

    prefix = _prefix(target)
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            match = re.match(re.escape(prefix) + r"(\d+)-", path.name)
            if match is None or psutil.pid_exists(int(match[1])):
                continue
            moved = path / "old"
            if moved.is_dir() and not target.exists():  # a replaced folder, caught between two renames
                os.rename(moved, target)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


@contextlib.contextmanager
def _told_of(target: Path) -> Iterator[None]:
    """Errors of the system name ``target``: a temporary name beside it tells its user nothing."""
    try:
        yield
    except OSError as error:
        error.filename = str(target)
        raise


@contextlib.contextmanager
def atomic_file(path: str | os.PathLike[str], *, apart: bool = False) -> Iterator[Path]:
    """Yield a temporary path with the target's suffix; on success it replaces ``path``, on failure it is gone.

    The parent folder is made. Readers see the old file or the new one, never a part.

    Args:
        path: of the file.
        apart: yield a path without suffix, in a temporary folder of its own, for writers that make files beside it.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target)
    prefix = f"{_prefix(target)}{os.getpid()}-"
    with _told_of(target):
        if apart:
            folder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
            temporary = folder / "new"
        else:
            handle, name = tempfile.mkstemp(prefix=prefix, suffix=target.suffix, dir=target.parent)
            os.close(handle)
            temporary = Path(name)
    try:
        yield temporary
        _sync(temporary)
        os.chmod(temporary, _permissions(0o666))
        os.replace(temporary, target)
        _sync_folder(target.parent)
    finally:
        if apart:
            shutil.rmtree(temporary.parent, ignore_errors=True)
        else:
            temporary.unlink(missing_ok=True)


def _carry_over(old: Path, new: Path) -> None:
    """Give ``new`` what ``old`` holds under names that ``new`` lacks, so that either can go without a loss."""
    for path in old.iterdir():
        twin = new / path.name
        if path.is_symlink():
            if not os.path.lexists(twin):
                os.symlink(os.readlink(path), twin)
        elif path.is_dir():
            if not os.path.lexists(twin):
                twin.mkdir()
            if twin.is_dir():
                _carry_over(path, twin)
        elif not os.path.lexists(twin):
            try:
                os.link(path, twin)
            except OSError:  # a disk without links
                shutil.copy2(path, twin)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike[str], *, keep_others: bool = False) -> Iterator[Path]:
    """Yield a temporary folder; on success it takes the place of ``path`` (replacing an older folder).

    A folder cannot be exchanged in one step on every system: the old one is first renamed aside, so for an
    instant ``path`` may be absent, but one complete folder always exists.

    Args:
        path: of the folder.
        keep_others: what the older folder holds under names that the new one lacks stays there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_stale(target)
    prefix = f"{_prefix(target)}{os.getpid()}-"
    with _told_of(target):
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    try:
        yield temporary
        for root, _, files in os.walk(temporary):
            for file in files:
                _sync(Path(root, file))
                os.chmod(Path(root, file), _permissions(0o666))
            os.chmod(root, _permissions(0o777))
            _sync_folder(Path(root))
        if target.exists():
            if keep_others:
                _carry_over(target, temporary)
            aside = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
            os.rename(target, aside / "old")
            os.rename(temporary, target)
            shutil.rmtree(aside)
        else:
            os.rename(temporary, target)
        _sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)

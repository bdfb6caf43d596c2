"""Lock files: which commits and which bytes a project's weights are, written once and then binding.

``naf-hub pin NAME`` writes one; the environment variable ``NAF_HUB_LOCK`` names the one that ``load`` obeys.
Weights that are the caller's own files, or ``None``, are not fetched and not locked.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..atomic import atomic_file
from ..errors import WeightsError
from ..records import Record, Weights
from .config_json import SHA256
from .json_objects import read_object

if TYPE_CHECKING:
    from .checksums import LocalFile

VARIABLE = "NAF_HUB_LOCK"
DEFAULT = "naf-hub.lock"
FORMAT = 1


COMMIT = re.compile(r"[0-9a-f]{40}")


class NotLocked(WeightsError):
    """The binding lock file says nothing about these weights."""


class Differs(WeightsError):
    """The weights are not those that the binding lock file names."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One published file, with what belongs to it (shards, ``config.json``).

    Attributes:
        source: address, as records spell it.
        commit: of the Hub repository; ``None`` for files from elsewhere.
        files: name within the repository -> (bytes, hex sha256).
    """

    source: str
    commit: str | None
    files: Mapping[str, tuple[int, str]]

    @classmethod
    def of(cls, source: str, file: LocalFile) -> Entry:
        """The entry of a file that was fetched; hashes what was not hashed yet."""
        held = {each.name: (each.size, each.sha256) for each in (file, *file.beside)}
        for name in held:
            if not _portable(name):
                raise WeightsError(
                    f"{source}: no lock file can name {name!r}: not every system has such files"
                )
        return cls(key_of(source), file.commit, held)

    @classmethod
    def read(cls, source: str, data: Any) -> Entry:
        """The entry that :meth:`to_dict` wrote.

        Raises:
            KeyError, TypeError, ValueError: it did not.
        """
        files = {name: (f["size"], f["sha256"]) for name, f in data["files"].items()}
        commit = data["commit"] if source.startswith("hf://") else data.get("commit")
        if not files or not (commit is None or COMMIT.fullmatch(commit)):
            raise ValueError(f"entry {source} is incomplete")
        for name, (size, digest) in files.items():
            if not _portable(name) or type(size) is not int or not SHA256.fullmatch(digest):
                raise ValueError(f"entry {source} of {name!r} is none that naf-hub writes")
        return cls(source, commit, files)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, sorted, ready for JSON."""
        files = {n: {"size": size, "sha256": digest} for n, (size, digest) in sorted(self.files.items())}
        return ({"commit": self.commit} if self.commit else {}) | {"files": files}

    def only(self) -> tuple[int, str]:
        """(bytes, hex sha256) of the file of an address outside the Hub."""
        return next(iter(self.files.values()))

    def verify(self, file: LocalFile, what: str) -> None:
        """Compare a fetched file, and what lies beside it, with this entry.

        Raises:
            Mismatch: a size or checksum differs.
            Differs: there are more or fewer files.
        """
        found = {each.name: each for each in (file, *file.beside)}
        if found.keys() != self.files.keys():
            names = ", ".join(sorted(found.keys() ^ self.files.keys()))
            raise Differs(f"{what}: {names}: not both in the lock file and at {self.source}")
        for name, each in found.items():
            each.verify(*self.files[name], what)


@dataclasses.dataclass(frozen=True)
class Lock:
    """What a lock file says: ``entries`` by address."""

    path: Path
    entries: Mapping[str, Entry]

    def entry(self, source: str, what: str) -> Entry:
        """What is locked for an address.

        Raises:
            NotLocked: nothing.
        """
        if (found := self.entries.get(key_of(source))) is None:
            raise NotLocked(f"{what}: {source} is not in the lock file {self.path}")
        return found

    def advice(self, error: NotLocked | Differs, name: str, weights: str) -> WeightsError:
        """``error`` with the command that would have these weights locked."""
        target = name if weights == "default" else f"{name}={weights}"
        update = ["--update"] if isinstance(error, Differs) else []
        command = shlex.join(["naf-hub", "pin", target, *update, "-o", str(self.path)])
        wanted = "; where the change is wanted, run: " if update else "; run: "
        locked = f" (locked by {self.path})" if update else ""
        return WeightsError(f"{error}{locked}{wanted}{command}")


def _portable(name: str) -> bool:
    """Whether a name means the same file below any folder of any system."""
    parts = name.split("/")
    return name.isprintable() and not set(name) & set("\\:") and not set(parts) & {"", ".", ".."}


def key_of(source: str) -> str:
    """One spelling for one file: the name that Hub repos give their weights by default is left out."""
    return source.removesuffix("/model.safetensors") if source.startswith("hf://") else source


def read_lock(path: Path) -> Lock:
    """The lock file at ``path``.

    Raises:
        WeightsError: missing, unreadable, or written by a newer naf-hub.
    """
    if not path.exists():
        raise WeightsError(f"no lock file {path}; write it with: naf-hub pin NAME -o {path}")
    try:
        data = read_object(path)
        newer = data["format"] > FORMAT
        entries = {} if newer else {key: Entry.read(key, entry) for key, entry in data["sources"].items()}
    except (WeightsError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = error if isinstance(error, WeightsError) else f"{type(error).__name__}: {error}"
        raise WeightsError(
            f"{path}: not a readable lock file ({reason}); delete it and run: naf-hub pin NAME -o {path}"
        ) from error
    if newer:
        raise WeightsError(f"{path}: written by a newer naf-hub; upgrade it: pip install -U naf-hub")
    return Lock(path, entries)


def binding_lock() -> Lock | None:
    """The lock file that ``NAF_HUB_LOCK`` makes binding, if it names one.

    Raises:
        WeightsError: it names one that is missing or unreadable.
    """
    path = os.environ.get(VARIABLE)
    return read_lock(Path(path).expanduser()) if path else None


def write_lock(lock: Lock) -> None:
    """Write a lock file, whole or not at all, its entries sorted so that versions of it can be compared."""
    sources = {key: entry.to_dict() for key, entry in sorted(lock.entries.items())}
    with atomic_file(lock.path) as temporary:
        content = json.dumps({"format": FORMAT, "sources": sources}, indent=2) + "\n"
        temporary.write_text(content, encoding="utf-8")


def choose(record: Record, name: str, chosen: str) -> Weights | None:
    """The set that ``naf-hub pin name=chosen`` means; ``None`` where there is nothing to fetch.

    Raises:
        WeightsError: the record has no such set.
    """
    if chosen in record.weights:
        return record.weights[chosen]
    if chosen.startswith("hf://"):
        return Weights(chosen)
    if chosen == "default" and not record.learned:
        return None
    sets = ", ".join(record.weights) or "none"
    raise WeightsError(
        f"{name} has no weights {chosen!r} to pin (named sets: {sets}); "
        f"name one as {name}=SET, or {name}=hf://owner/repo"
    )


def pin(targets: Iterable[str], path: str | os.PathLike[str], *, update: bool = False) -> dict[str, str]:
    """Fetch weights and write what they are to a lock file.

    Args:
        targets: ``NAME`` or ``NAME=SET``, an upsampler or backbone and which of its weights; ``SET`` is a named set
            (default ``"default"``) or ``hf://owner/repo[@revision][/file]``.
        path: of the lock file; entries of other weights that are in it stay.
        update: resolve anew what is in the file already.

    Returns:
        Address -> ``"added"``, ``"updated"`` or ``"kept"``.

    Raises:
        UnknownNameError, WeightsError: no such name or set, or it cannot be fetched; nothing is written then.
    """
    from ..registry import info
    from .archives import published_files
    from .hub import fetch

    path = Path(path).expanduser()
    entries = dict(read_lock(path).entries) if path.exists() else {}
    done: dict[str, str] = {}
    for target in targets:
        name, _, chosen = target.partition("=")
        weights = choose(info(name), name, chosen or "default")
        for published in published_files(weights) if weights else ():
            key = key_of(published.source)
            if key in done:
                continue
            done[key] = "kept" if key in entries and not update else "updated" if key in entries else "added"
            if done[key] != "kept":
                file = fetch(published, f"{name} weights {chosen or 'default'!r}")
                entries[key] = Entry.of(published.source, file)
    write_lock(Lock(path, entries))
    return done

"""The folder of a run: made by it, used by one process at a time, and nobody's files in it are touched."""

from __future__ import annotations

import json
import logging
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from ..atomic import atomic_file, remove_stale
from ..errors import NafHubError
from ..image_files import RUN_MARKER
from ..result_folder import describe_visible
from ..version import __version__
from ..weights.checksums import sha256_of
from .exclusive import Exclusive, InUse

log = logging.getLogger("naf_hub")

FORMAT = 1
LOG, CHECKPOINTS = "log.jsonl", "checkpoints"
WEIGHTS = ("best", "weights")


class FolderError(NafHubError, RuntimeError):
    """A folder that a run cannot have: it belongs to something else, or another process uses it."""


class RunFolder:
    """The folder of a run, which its marker file tells.

    The marker also holds the sha256 of the weights that the run wrote, so that what a user changed in them is
    recognised. A folder without a marker counts as that of an earlier version's run where it holds ``checkpoints/`` and
    a ``log.jsonl`` that is empty or begins with an event; it then gets a marker.

    Args:
        path: need not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.marker = path / RUN_MARKER
        self._use = Exclusive(path)

    def open(self) -> None:
        """Make the folder or recognise it, and keep other processes out until :meth:`close`.

        Raises:
            FolderError: there are files in it but no run, another process uses it, or the marker is unreadable.
            OSError: it cannot be written.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        self._check()
        try:
            self._use.take()
        except InUse as error:
            raise FolderError(
                f"{error} trains in {self.path} at this moment: wait for it, stop it, or choose another folder"
            ) from error
        try:
            self._check()  # again: another may have been quicker
            for folder in WEIGHTS:
                remove_stale(self.path / folder)
            if not self.marker.exists():
                self._note({key: sha256_of(path) for key, path in self._weights()})
        except BaseException:
            self._use.release()
            raise

    def close(self) -> None:
        """Let other processes use the folder."""
        self._use.release()

    def _check(self) -> None:
        if self.marker.exists():
            self._read()
            return
        shown = describe_visible(self.path)  # what another process has just made is hidden, too
        if shown and not self._is_of_earlier_version():
            raise FolderError(
                f"{self.path} is not empty ({shown}) and no run was started in it: give --out a new or an empty folder"
            )

    def _is_of_earlier_version(self) -> bool:
        if not (self.path / CHECKPOINTS).is_dir() or not (self.path / LOG).is_file():
            return False
        with open(self.path / LOG, encoding="utf-8", errors="replace") as file:
            first = file.readline(1 << 20)
        try:
            return not first or "event" in json.loads(first)
        except (ValueError, TypeError):
            return False

    def _read(self) -> dict[str, Any]:
        try:
            note = json.loads(self.marker.read_text(encoding="utf-8"))
            if note["format"] > FORMAT:
                raise FolderError(
                    f"{self.path} holds a run of naf-hub {note['naf_hub_version']}; upgrade: pip install -U naf-hub"
                )
            return {"written": dict(note["written"])}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise FolderError(
                f"{self.marker} is damaged ({type(error).__name__}: {error}); where the run is yours, delete this file"
            ) from error

    def _note(self, written: dict[str, str]) -> None:
        note = {"format": FORMAT, "naf_hub_version": __version__, "written": written}
        with atomic_file(self.marker) as temporary:
            temporary.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")

    def _weights(self) -> Iterator[tuple[str, Path]]:
        """What lies in the folders of weights, by its name in the marker."""
        for folder in WEIGHTS:
            yield from self._files(folder)

    def _files(self, folder: str) -> Iterator[tuple[str, Path]]:
        place = self.path / folder
        if place.is_dir():
            yield from ((f"{folder}/{p.name}", p) for p in sorted(place.iterdir()) if p.is_file())

    def set_changed_aside(self, folder: str, names: Collection[str]) -> None:
        """Rename those of ``names`` in a folder of weights that the run did not write as they are now.

        ``README.md`` that a user has edited becomes ``README.yours.md``.
        """
        written = self._read()["written"]
        for key, path in list(self._files(folder)):
            if path.name not in names or written.get(key) == sha256_of(path):
                continue
            number, kept = 1, path.with_name(f"{path.stem}.yours{path.suffix}")
            while kept.exists():
                number += 1
                kept = path.with_name(f"{path.stem}.yours{number}{path.suffix}")
            path.rename(kept)
            log.warning("%s was not written by this run; it is kept as %s", path, kept.name)

    def note_written(self, folder: str, names: Collection[str]) -> None:
        """Remember the files ``names`` of a folder of weights as the run's own."""
        written = self._read()["written"]
        written |= {key: sha256_of(path) for key, path in self._files(folder) if path.name in names}
        self._note(written)

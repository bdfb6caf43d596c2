"""Results of a long evaluation, picture by picture, on disk, so that an interrupted one goes on."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from .controls import OtherGuidance
from .escapes import plain_name
from .result_folder import claim_folder
from .training.facts import describe_files, fingerprint
from .version import __version__

SUFFIX = ".jsonl"


class KeptResults:
    """Plain results of contenders, ``FOLDER/LABEL.jsonl``: a line a picture, written as it comes.

    A line is found again by a digest of all that decides it: settings, weights, and the names, sizes and times of the
    files. What was made otherwise is thus measured anew beside what is there, and one folder serves several settings.
    Rows of :class:`~naf_hub.controls.OtherGuidance` are not kept: each is guided by the picture before it, which a
    continued run may not see.

    Args:
        folder: made if need be; ``None`` keeps nothing.
        results: what is kept there, such as the name of a task.
        facts: plain data on what decides results beside models and files; leave out how many files there are.
        frozen: the backbone, and what else is the same for all contenders.
        models: contenders by label; one that is no module is described by its label alone.

    Raises:
        FileExistsError: the folder holds other files or other results.
        OSError: it cannot be written.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str] | None,
        results: str,
        facts: Mapping[str, Any],
        frozen: Iterable[nn.Module],
        models: Mapping[str, Any],
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.facts: dict[str, str] = {}
        self.found: dict[str, dict[str, Any]] = {}
        if self.folder is None:
            return
        claim_folder(self.folder, results, lambda _: False)
        shared = [results, __version__, dict(facts), *map(fingerprint, frozen)]
        for label, model in models.items():
            if isinstance(model, OtherGuidance):
                continue
            weights = fingerprint(model) if isinstance(model, nn.Module) else ""
            self.facts[label] = json.dumps([*shared, label, weights], sort_keys=True)
            self.found[label] = _read(self.folder / (plain_name(label) + SUFFIX))

    def recall(self, label: str, files: Sequence[Path]) -> Any:
        """What was kept of a contender on these files; ``None`` where nothing was."""
        return self.found[label].get(self._key(label, files)) if label in self.found else None

    def keep(self, label: str, files: Sequence[Path], result: Any) -> None:
        """Write down a result, which is plain data and not ``None``."""
        if self.folder is None or label not in self.found:
            return
        key = self._key(label, files)
        line = json.dumps({"key": key, "files": [os.fspath(path) for path in files], "result": result})
        path = self.folder / (plain_name(label) + SUFFIX)
        # In one call, so that lines of several processes do not mix; behind a line that a crash cut short, a new one.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            whole = True
            if os.fstat(descriptor).st_size:
                os.lseek(descriptor, -1, os.SEEK_END)
                whole = os.read(descriptor, 1) == b"\n"
            os.write(descriptor, f"{'' if whole else chr(10)}{line}\n".encode())
        finally:
            os.close(descriptor)
        self.found[label][key] = result

    def _key(self, label: str, files: Sequence[Path]) -> str:
        described = describe_files(files)
        text = f"{self.facts[label]} {described['sha256']} {described['states']}"
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def _read(path: Path) -> dict[str, Any]:
    """Results by their keys; lines that a crash cut short are left out."""
    found: dict[str, Any] = {}
    with contextlib.suppress(FileNotFoundError):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, KeyError, TypeError):
                record = json.loads(line)
                found[record["key"]] = record["result"]
    return found

"""Pictures of class ids, and the ``classes.json`` that says what the ids mean."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import DatasetError
from .images import stored_values

IGNORE = -1
"""Index of pixels of which nothing is known."""
_UNKNOWN = -2
_ID_LIMIT = 65_536  # ids come from 8- or 16-bit pictures
_FORM = '{"classes": [{"id": 0, "name": "sky"}, ...], "ignore_index": 255}'


@dataclasses.dataclass(frozen=True)
class Classes:
    """What the ids in the label pictures mean.

    Attributes:
        names: name of each scored class, in the order of ``classes.json``.
        table: int64 lookup from label id to class index, ``IGNORE``, or unknown.
        allowed: the ids in words, for messages.
        source: what says so, for messages.
    """

    names: tuple[str, ...]
    table: Tensor
    allowed: str
    source: str = "classes.json"

    @classmethod
    def of(
        cls, scored: Mapping[int, str], void: Collection[int] = (), source: str = "classes.json"
    ) -> Classes:
        """Classes of the names by id, in the order of their first ids; ids of ``void`` are not scored.

        Ids of one name are one class.
        """
        names = tuple(dict.fromkeys(scored.values()))
        table = torch.full((max(*scored, *void, 0) + 2,), _UNKNOWN, dtype=torch.int64)
        for number, name in scored.items():
            table[number] = names.index(name)
        for number in void:
            table[number] = IGNORE
        allowed = f"ids {_in_words(scored)}"
        if void:
            allowed += f" and {_in_words(void)} (ignored)"
        return cls(names, table, allowed, source)

    def index(self, ids: Tensor, file: str | os.PathLike[str]) -> Tensor:
        """Class indices (int64, ``IGNORE`` where void) of label ids.

        Raises:
            DatasetError: an id that is not among them, with the file.
        """
        # One slot past the end of the table stands for every larger id; negative ids are unknown too.
        ids = ids.long()
        slots = torch.where(ids < 0, len(self.table) - 1, ids.clamp(max=len(self.table) - 1))
        indices = self.table[slots]
        if bool((indices == _UNKNOWN).any()):
            wrong = sorted(set(ids[indices == _UNKNOWN].tolist()))
            shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
            raise DatasetError(f"{file}: label id {shown} is not in {self.source}, which has {self.allowed}")
        return indices


def _in_words(numbers: Collection[int]) -> str:
    """Numbers in order, three or more that follow each other as the first and last."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 2 else ", ".join(map(str, run)) for run in runs)


def read_classes(path: str | os.PathLike[str]) -> Classes:
    """Read ``classes.json``: ``{"classes": [{"id": 0, "name": "sky"}, ...], "ignore_index": 255}``.

    A class may carry ``"ignore": true``; ``ignore_index`` is an id or a list of ids and may be left out.
    Other keys (colours, counts) are not read.

    Raises:
        DatasetError: the file is missing, no JSON, or not of that form.
    """
    if not Path(path).is_file():
        raise DatasetError(f"no {path}; it lists the classes: {_FORM}")
    try:
        data = json.loads(Path(path).read_text(encoding="utf-8"))
        classes = data["classes"]
        entries = [(_check_id(c["id"]), str(c["name"]), bool(c.get("ignore", False))) for c in classes]
        ignored = data.get("ignore_index")
        listed = ignored if isinstance(ignored, list) else [] if ignored is None else [ignored]
        void = {_check_id(i) for i in listed} | {number for number, _, ignore in entries if ignore}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"missing key {error}" if isinstance(error, KeyError) else error
        raise DatasetError(f"{path}: {reason}; expected {_FORM}") from error
    ids = [number for number, _, _ in entries]
    if len(set(ids)) != len(ids):
        raise DatasetError(f"{path}: a class id appears twice")
    scored = [(number, name) for number, name, _ in entries if number not in void]
    if len({name for _, name in scored}) != len(scored):
        raise DatasetError(f"{path}: a class name appears twice")
    if len(scored) < 2:
        raise DatasetError(f"{path}: needs at least two classes that are not ignored")
    return Classes.of(dict(scored), void)


def _check_id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _ID_LIMIT:
        raise ValueError(f"class id {value!r} is not an integer from 0 to {_ID_LIMIT - 1}")
    return value


def read_label(path: str | os.PathLike[str], classes: Classes) -> Tensor:
    """(H, W) int64 class indices of a one-channel label picture (grey or palette), turned as its EXIF data says.

    Raises:
        ImageError: not a readable picture.
        DatasetError: a colour picture, or an id that is not among the classes.
    """
    mode, values = stored_values(path)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise DatasetError(
            f"{path}: a label must hold one class id a pixel (grey or palette picture), not {mode}"
        )
    return classes.index(torch.from_numpy(values.astype(np.int64)), path)

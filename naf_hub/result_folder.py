"""The folder that a command keeps its results in: marked as its own, so that they never mix with a user's files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from .atomic import atomic_file
from .image_files import RESULTS_MARKER
from .version import __version__

FORMAT = 1


def claim_folder(path: Path, results: str, is_earlier: Callable[[Path], bool]) -> None:
    """Make or recognise a folder of results, and mark it as one.

    Args:
        path: need not exist yet.
        results: what is kept there, such as the name of a task.
        is_earlier: whether a folder without a mark holds results of an earlier version; it is then marked, too.

    Raises:
        FileExistsError: there are other files or other results in it, or its mark is damaged.
        OSError: it cannot be written.
    """
    path.mkdir(parents=True, exist_ok=True)
    marker = path / RESULTS_MARKER
    shown = describe_visible(path)  # before the mark is looked for: another process may be making it
    if marker.exists():
        found = _read(marker)
        if found != results:
            raise FileExistsError(
                f"{path} holds results of {found}, not of {results}: give --out another folder"
            )
        return
    if shown and not is_earlier(path):
        raise FileExistsError(
            f"{path} is not empty ({shown}) and holds no results of {results}: give --out a new or an empty folder"
        )
    note = {"format": FORMAT, "naf_hub_version": __version__, "results": results}
    with atomic_file(marker) as temporary:
        temporary.write_text(json.dumps(note, indent=2) + "\n", encoding="utf-8")


def describe_visible(folder: Path) -> str:
    """The first names in a folder; empty where it is, but for hidden files (.DS_Store)."""
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _read(marker: Path) -> str:
    try:
        note = json.loads(marker.read_text(encoding="utf-8"))
        return str(note["results"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileExistsError(
            f"{marker} is damaged ({type(error).__name__}: {error}); where the results are yours, delete this file"
        ) from error

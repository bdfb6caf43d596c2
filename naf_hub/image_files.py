"""Finding image files: in folders, by pattern, and which of them Pillow reads."""

from __future__ import annotations

import functools
import glob
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from PIL import Image

from .errors import ImageError
from .images import URL

log = logging.getLogger("naf_hub")

# Files of these formats are no photos, or Pillow only knows that they exist.
NO_PHOTOS = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
# Photos that need a plugin of Pillow's, or a raw converter: left out of a search, but not in silence.
UNREADABLE = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".orf", ".raf", ".rw2"}
)

# Marks the folder of a training run, whose pictures are previews.
RUN_MARKER = "naf-hub-run.json"


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Endings, lower case, of the photo formats that the installed Pillow (and its plugins) can read."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in Image.OPEN and name not in NO_PHOTOS)


def has_image_name(path: Path) -> bool:
    """Whether a file's ending is that of a photo; hidden files (macOS's ``._photo.jpg`` among them) are none."""
    return path.suffix.lower() in image_suffixes() and not path.name.startswith(".")


def find_images(
    paths: Iterable[str | os.PathLike[str]], *, without: Iterable[str | os.PathLike[str]] = ()
) -> list[Path]:
    """Image files from files, folders (searched recursively) and glob patterns, in order, without doubles.

    A file named outright is kept whatever its name; folders and patterns yield files with an image's ending that
    are not hidden. Linked folders are followed, each folder once; those of training runs are left out unless the
    search starts in them. Photos that Pillow cannot read are told.

    Args:
        paths: where to look.
        without: folders to leave out of the search, such as that of the results, unless it starts in them.

    Raises:
        FileNotFoundError: a path matches nothing.
        ImageError: an address of the web in place of a path.
    """
    found: dict[Path, None] = {}
    left_out = {Path(folder).resolve() for folder in without}
    for entry in paths:
        if isinstance(entry, str) and URL.match(entry):
            raise ImageError(f"{entry}: addresses are not fetched; download the picture and give its path")
        path = Path(entry)
        if path.is_dir():
            candidates = sorted(files_below(path, left_out))
        elif path.exists():
            found.setdefault(path)
            continue
        else:
            candidates = [p for p in _matching(str(entry), left_out) if p.is_file()]
        images = [p for p in candidates if has_image_name(p)]
        _tell_unreadable(candidates, entry)
        if not images:
            raise FileNotFoundError(f"no image at {entry}")
        found.update(dict.fromkeys(images))
    return list(found)


def find_training_images(
    paths: Iterable[str | os.PathLike[str]], out: str | os.PathLike[str] | None
) -> list[Path]:
    """:func:`find_images`, without any in ``out``, the folder of the run, however they were named.

    Raises:
        FileNotFoundError: a path matches nothing, or nothing else.
        ImageError: an address of the web in place of a path.
    """
    if out is None:
        return find_images(paths)
    folder = Path(out).resolve()

    @functools.cache  # lists are long, folders are few
    def is_within(place: Path) -> bool:
        return place.resolve().is_relative_to(folder)

    found = [path for path in find_images(paths, without=[folder]) if not is_within(path.parent)]
    if not found:
        raise FileNotFoundError(
            f"all images lie in {out}, the folder of the run: choose another for one of them"
        )
    return found


def files_below(folder: Path, left_out: Collection[Path] = ()) -> Iterator[Path]:
    """Files in a folder and those below it, each real folder once.

    Folders below that are hidden, ``left_out`` or those of training runs are excepted.
    """
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        unwanted = Path(real) in left_out or RUN_MARKER in files
        if real in seen or (unwanted and Path(root) != folder):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in files if (path := Path(root, name)).is_file())


def _matching(pattern: str, left_out: Collection[Path]) -> list[Path]:
    """What a glob pattern matches, hidden files excepted; folders that exist as written are no patterns.

    Below those, ``left_out`` folders and those of training runs are excepted.
    """
    parts = Path(pattern).parts
    real = 0
    while real < len(parts) and Path(*parts[: real + 1]).exists():
        real += 1
    escaped = str(Path(*(glob.escape(part) for part in parts[:real]), *parts[real:]))
    start = Path(*parts[:real]).resolve()
    unwanted: dict[Path, bool] = {start: False, **dict.fromkeys(start.parents, False)}

    def is_unwanted(folder: Path) -> bool:
        if folder not in unwanted:
            own = folder in left_out or (folder / RUN_MARKER).exists()
            unwanted[folder] = own or (folder != folder.parent and is_unwanted(folder.parent))
        return unwanted[folder]

    return [
        p
        for p in map(Path, sorted(glob.glob(escaped, recursive=True)))
        if not is_unwanted(p.parent.resolve())
    ]


def _tell_unreadable(candidates: Iterable[Path], entry: object) -> None:
    names = [p.suffix.lower() for p in candidates if p.suffix.lower() in UNREADABLE - image_suffixes()]
    if names:
        log.warning(
            "%s: %d photos left out (%s): Pillow needs a plugin for them (for .heic: pip install pillow-heif), "
            "or convert them",
            entry, len(names), ", ".join(sorted(set(names))),
        )  # fmt: skip

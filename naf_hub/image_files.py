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
    are not hidden. Linked folders are followed, each folder once. Photos that Pillow cannot read are told.

    Args:
        paths: where to look.
        without: folders to leave out of the search, such as that of the results.

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
            candidates = [p for p in _matching(str(entry)) if p.is_file()]
        images = [p for p in candidates if has_image_name(p)]
        _tell_unreadable(candidates, entry)
        if not images:
            raise FileNotFoundError(f"no image at {entry}")
        found.update(dict.fromkeys(images))
    return list(found)


def files_below(folder: Path, left_out: Collection[Path] = ()) -> Iterator[Path]:
    """Files in a folder and those below it, hidden folders and ``left_out`` excepted, each real folder once."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen or (Path(real) in left_out and Path(root) != folder):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in files if (path := Path(root, name)).is_file())


def _matching(pattern: str) -> list[Path]:
    """What a glob pattern matches, hidden files excepted; folders that exist as written are no patterns."""
    parts = Path(pattern).parts
    real = 0
    while real < len(parts) and Path(*parts[: real + 1]).exists():
        real += 1
    escaped = str(Path(*(glob.escape(part) for part in parts[:real]), *parts[real:]))
    return [Path(p) for p in sorted(glob.glob(escaped, recursive=True))]


def _tell_unreadable(candidates: Iterable[Path], entry: object) -> None:
    names = [p.suffix.lower() for p in candidates if p.suffix.lower() in UNREADABLE - image_suffixes()]
    if names:
        log.warning(
            "%s: %d photos left out (%s): Pillow needs a plugin for them (for .heic: pip install pillow-heif), "
            "or convert them",
            entry, len(names), ", ".join(sorted(set(names))),
        )  # fmt: skip

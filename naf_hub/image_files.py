"""Finding image files: in folders, by pattern, and which of them Pillow reads."""

from __future__ import annotations

import dataclasses
import functools
import glob
import logging
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path

from PIL import Image

from .errors import ImageError
from .images import URL
from .made_with import is_restored_photo, is_result_picture

log = logging.getLogger("naf_hub")

# Files of these formats are no photos, or Pillow only knows that they exist.
NO_PHOTOS = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
# Photos that need a plugin of Pillow's, or a raw converter: left out of a search, but not in silence.
UNREADABLE = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".orf", ".raf", ".rw2"}
)

# So many names are told; of more only the endings.
FEW = 3
# Marks the folder of a training run, whose pictures are previews.
RUN_MARKER = "naf-hub-run.json"
# Marks the folder of an evaluation's results, whose pictures are masks and predictions.
RESULTS_MARKER = "naf-hub-results.json"


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Endings, lower case, of the photo formats that the installed Pillow (and its plugins) can read."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in Image.OPEN and name not in NO_PHOTOS)


def has_image_name(path: Path) -> bool:
    """Whether a file's ending is that of a photo; hidden files (macOS's ``._photo.jpg`` among them) are none."""
    return path.suffix.lower() in image_suffixes() and not path.name.startswith(".")


@dataclasses.dataclass
class Search:
    """What was found.

    Attributes:
        images: place of each image file below the folder or the fixed part of the pattern that it was found by;
            of a file that was named outright its name.
        left_out: by reason, what was passed over.
    """

    images: dict[Path, Path] = dataclasses.field(default_factory=dict)
    left_out: dict[str, list[Path]] = dataclasses.field(default_factory=dict)

    def leave_out(self, reason: str, path: Path) -> None:
        """Note that a path was passed over."""
        self.left_out.setdefault(reason, []).append(path)

    def describe(self) -> str:
        """What was left out, in one line: counts and reasons, and names where they are few; empty if nothing was."""
        parts = []
        for reason, paths in self.left_out.items():
            endings = sorted({path.suffix.lower() for path in paths if path.suffix})
            names = [path.name for path in paths] if len(paths) <= FEW else endings[:FEW]
            more = ", ..." if len(paths) > FEW and len(endings) > FEW else ""
            parts.append(f"{len(paths)} {reason}" + (f" ({', '.join(names)}{more})" if names else ""))
        return "left out: " + "; ".join(parts) if parts else ""


def find_images(
    paths: Iterable[str | os.PathLike[str]], *, without: Iterable[str | os.PathLike[str]] = ()
) -> list[Path]:
    """Image files from files, folders (searched recursively) and glob patterns, in order, without doubles.

    A file named outright is kept whatever its name; folders and patterns yield files with an image's ending that
    are not hidden and not pictures that ``naf-hub`` made. Linked folders are followed, each folder once; those of
    training runs and of results are left out unless the search starts in them. What is left out is told in one line.

    Args:
        paths: where to look.
        without: folders to leave out of the search, such as that of the results, unless it starts in them.

    Raises:
        FileNotFoundError: a path matches nothing.
        ImageError: an address of the web in place of a path.
    """
    found = search_images(paths, without=without)
    if found.left_out:
        log.warning("%s", found.describe())
    return list(found.images)


def search_images(
    paths: Iterable[str | os.PathLike[str]],
    *,
    without: Iterable[str | os.PathLike[str]] = (),
    restored: bool = True,
) -> Search:
    """:func:`find_images` with the place of each file and what was left out, for the caller to tell.

    Photos that naf-hub restored are photos, too, unless ``restored`` says otherwise.
    """
    search = Search()
    left_out = {Path(folder).resolve() for folder in without}
    for entry in paths:
        if isinstance(entry, str) and URL.match(entry):
            raise ImageError(f"{entry}: addresses are not fetched; download the picture and give its path")
        path = Path(entry)
        if path.is_dir():
            base, candidates = path, sorted(files_below(path, left_out, search))
        elif path.exists():
            search.images.setdefault(path, Path(path.name))
            continue
        else:
            base, candidates = _matching(str(entry), left_out)
        images = [p for p in candidates if _is_photo(p, search, restored)]
        if not images:
            raise FileNotFoundError("; ".join(filter(None, [f"no image at {entry}", search.describe()])))
        for image in images:
            search.images.setdefault(image, image.relative_to(base))
    return search


def listed_images(file: str | os.PathLike[str]) -> Search:
    """The image files that a text file names, one path a line; none is looked for yet.

    Paths begin at the folder of the list. The place of each is its path as it is written there, of one that leads
    out of the folder its whole path.

    Raises:
        FileNotFoundError: no such file, or no path in it.
        ImageError: it is no text.
    """
    path = Path(file)
    text = path.read_bytes().decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise ImageError(f"{path}: is no list of images, one path a line")
    search, folder = Search(), path.parent.absolute()
    for line in filter(str.strip, text.split("\n")):
        image = Path(os.path.normpath(folder / line.rstrip("\r")))
        within = image.is_relative_to(folder)
        search.images.setdefault(image, image.relative_to(folder if within else image.anchor))
    if not search.images:
        raise FileNotFoundError(f"no image named in {path}")
    return search


def _is_photo(path: Path, search: Search, restored: bool) -> bool:
    """Whether a file that was come across is a photo; if not, it is noted why."""
    if path.name.startswith("."):
        reason = "hidden files"
    elif not path.is_file():
        reason = "folders, links to nothing, pipes or devices"
    elif has_image_name(path):
        if not is_result_picture(path) or (restored and is_restored_photo(path)):
            return True
        reason = "pictures that naf-hub made"
    elif path.suffix.lower() in UNREADABLE:
        reason = (
            "photos that Pillow needs a plugin for, e.g. pip install pillow-heif for .heic, or convert them"
        )
    else:
        reason = "files that are no photos"
    search.leave_out(reason, path)
    return False


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


def files_below(
    folder: Path, left_out: Collection[Path] = (), search: Search | None = None
) -> Iterator[Path]:
    """Files in a folder and those below it, each real folder once.

    Folders below that are hidden, ``left_out`` or those of training runs and of results are excepted.

    Args:
        folder: where to start.
        left_out: resolved folders not to enter.
        search: notes what is passed over, and is then given what is no regular file, too, to judge.
    """

    def note(error: OSError) -> None:
        if search is not None:
            search.leave_out("folders that cannot be opened", Path(error.filename))

    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True, onerror=note):
        real = os.path.realpath(root)
        unwanted = Path(real) in left_out or not {RUN_MARKER, RESULTS_MARKER}.isdisjoint(files)
        if real in seen or (unwanted and Path(root) != folder):
            folders.clear()
            continue
        seen.add(real)
        if search is not None:
            for name in (name for name in folders if name.startswith(".")):
                search.leave_out("hidden folders", Path(root, name))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in files if (path := Path(root, name)).is_file() or search is not None)


def _matching(pattern: str, left_out: Collection[Path]) -> tuple[Path, list[Path]]:
    """The fixed part of a glob pattern, and what it matches; folders that exist as written are no patterns.

    Below those, ``left_out`` folders and those of training runs and of results are excepted.
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
            own = folder in left_out or any((folder / m).exists() for m in (RUN_MARKER, RESULTS_MARKER))
            unwanted[folder] = own or (folder != folder.parent and is_unwanted(folder.parent))
        return unwanted[folder]

    found = [
        p
        for p in map(Path, sorted(glob.glob(escaped, recursive=True)))
        if not is_unwanted(p.parent.resolve())
    ]
    return Path(*parts[:real]), found

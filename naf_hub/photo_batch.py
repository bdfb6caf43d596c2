"""Photos worked on one by one: where results lie, what is there already, and what is told."""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import logging
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from . import escapes
from .contenders import Contender, name_model
from .feature_files import is_whole
from .made_with import describe_model, differences, is_beginning, read_record, sidecar
from .memory import shortage
from .plugins import one_line
from .reports import amount
from .terminal import no_bar, print_json, skip_line, tell

if TYPE_CHECKING:
    from .image_files import Search

log = logging.getLogger("naf_hub")

# Bytes of a file name, less the longest ending.
LONGEST_STEM = 255 - len(".safetensors")
# So many failures are told one by one; the rest is amount, and in --json listed.
TOLD = 10


# A disk without room for one result has none for the next.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def attempt(photo: Path, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What ``work`` tells of a photo; if it failed, ``image`` and ``error``, so that it costs its photo alone.

    Raises:
        OSError: the disk is full or can only be read, so that every other photo would fail, too.
    """
    try:
        return work(photo)
    except Exception as error:  # of plugins and decoders, which may fail in any way
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            raise
        log.debug("%s", escapes.one_line(str(photo)), exc_info=True)
        expected = isinstance(error, (ValueError, OSError, RuntimeError, MemoryError))
        message = shortage(error) or (" ".join(str(error).split()) if expected else one_line(error))
        shown = " ".join(str(photo).split())
        return {"image": str(photo), "error": message if shown in message else f"{shown}: {message}"}


class ResultSettings(Protocol):
    """What a command writes for each photo, and how."""

    def of(self, target: Path) -> dict[str, Any]:
        """Settings on which a file depends."""
        ...

    def outputs(self, stem: Path) -> list[Path]:
        """What is written for one photo."""
        ...


@dataclasses.dataclass(frozen=True)
class PictureNames:
    """Names of the pictures that are made of photos: that of ``a.png`` is ``a.png``, where nothing else is called so.

    Attributes:
        stems: of the results of all photos, see :func:`result_stem`.
        photos: their real paths.
    """

    stems: frozenset[Path] = frozenset()
    photos: frozenset[Path] = frozenset()

    @classmethod
    def of_batch(cls, found: Search, out: Path) -> PictureNames:
        """Those of photos with results in the folder ``out``."""
        stems = frozenset(out / result_stem(place) for place in found.images.values())
        return cls(stems, frozenset(photo.resolve() for photo in found.images))

    def shortened(self, stem: Path) -> Path:
        """The stem of a photo's results as that of its pictures, which end in ``.png`` anyway."""
        short = stem.with_suffix("")
        free = short not in self.stems and stem.resolve() not in self.photos
        return short if stem.suffix == ".png" and free else stem


class PhotoBatch:
    """Photos worked on one by one: what is there already is kept, and a failure costs its photo alone.

    Args:
        make: writes results of a photo: called with the photo, the files to write and the place of the photo;
            returns what is told of it, ``image`` and ``files`` among it.
        found: the photos and the place of each.
        out: folder of the results.
        settings: of the results.
        force: whether results of other settings, or of other photos, are made anew.
        remedy: what to do where they are not.
    """

    def __init__(self, make: Callable[[Path, list[Path], Path], dict[str, Any]], found: Search, out: Path,
                 settings: ResultSettings, force: bool,
                 remedy: str = "use --force to make it anew, or another -o") -> None:  # fmt: skip
        self.make, self.found, self.out, self.settings, self.force = make, found, out, settings, force
        self.remedy = remedy
        self.photos = found.images
        self.real = {photo.resolve() for photo in self.photos}
        self.written: dict[tuple[int, int], Path] = {}

    def run(self, photo: Path) -> dict[str, Any]:
        """Make what is missing of one photo; says ``kept`` if nothing was, ``error`` if it failed."""
        return attempt(photo, self._run)

    def _run(self, photo: Path) -> dict[str, Any]:
        targets = self.settings.outputs(self.out / result_stem(self.photos[photo]))
        missing = self._missing(photo, targets)
        if not missing:
            return {"image": str(photo), "kept": True, "files": [str(path) for path in targets]}
        result = self.make(photo, missing, self.photos[photo])
        for path in missing:
            self.written[_identity(path)] = photo
        return result

    def _missing(self, photo: Path, targets: list[Path]) -> list[Path]:
        """Those of a photo's results that are to be made.

        Raises:
            FileExistsError: a file is in the way, and why it stays.
        """
        missing = []
        for path in targets:
            if path.resolve() in self.real:
                raise FileExistsError(f"{path} is one of the photos, which stay; choose another -o")
            taken = [p for p in (path, sidecar(path)) if os.path.lexists(p)]
            if not taken:
                missing.append(path)
                continue
            # Also where the file system does not tell a.jpg from A.jpg.
            other = self.written.get(_identity(path)) if path.exists() else None
            if other is not None:
                raise FileExistsError(
                    f"{path} is the result of {other}; give the folder above both photos, as results mirror its "
                    "folders, or another -o"
                )
            found = read_record(path)
            if found is None and path.suffix == ".safetensors" and path.is_file() and is_beginning(path):
                missing.append(path)
                continue
            if found is None:
                raise FileExistsError(
                    f"{taken[0]} exists and is no result of naf-hub; it stays: choose another -o"
                )
            different = differences(found, self.settings.of(path), photo, self.photos[photo])
            if different and not self.force:
                raise FileExistsError(f"{path} was made otherwise ({'; '.join(different)}): {self.remedy}")
            if self.force or path not in taken or not is_whole(path):
                missing.append(path)
        return missing

    def run_all(
        self,
        word: str,
        describe: Callable[[dict[str, Any]], str],
        remarks: Callable[[Sequence[dict[str, Any]]], list[str]] = lambda results: [],
        as_json: bool = False,
    ) -> int:
        """Work on every photo, and tell as a command does: results on stdout, failures and counts on stderr.

        Args:
            word: what is done to photos, for the count: ``"upsampled"``.
            describe: what is told of a result beside its photo and files.
            remarks: what is told once, of all results.
            as_json: print JSON instead.

        Returns:
            Exit status: 1 where any photo failed.
        """
        from tqdm import tqdm

        results: list[dict[str, Any]] = []
        failed = 0
        bar = no_bar(len(self.photos) > 1 and not as_json)
        for photo in tqdm(self.photos, disable=bar, unit="image"):
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "image resized from")  # the sizes are printed anyway
                result = self.run(photo)
            results.append(result)
            if "error" in result:
                failed += 1
                if failed <= TOLD:
                    tqdm.write(f"naf-hub: {skip_line(result['error'])}", file=sys.stderr)
            elif not as_json and "kept" not in result:
                tqdm.write(escapes.one_line(f"{photo}: {describe(result)} -> {', '.join(result['files'])}"))
        kept = sum("kept" in result for result in results)
        for line in [*remarks(results), *_counts(word, len(results), kept, failed)]:
            tell(line)
        if as_json:
            for result in results:
                result["files"] = [os.path.abspath(path) for path in result.get("files", [])]
            left_out = {reason: len(paths) for reason, paths in self.found.left_out.items()}
            print_json({"results": results, "failed": failed, "kept": kept, "left_out": left_out})
        return 1 if failed else 0


def _counts(word: str, total: int, kept: int, failed: int) -> list[str]:
    lines = [f"{failed - TOLD} more failed; --json lists them all"] if failed > TOLD else []
    if kept or failed:
        lines.append(
            f"{total - kept - failed} of {amount(total, 'image')} {word}, {kept} kept, {failed} failed"
        )
    return lines


def _identity(path: Path) -> tuple[int, int]:
    state = path.stat()
    return state.st_dev, state.st_ino


def describe_contender(made: Contender, model: Any) -> dict[str, Any]:
    """Settings that a loaded contender is among, see :func:`~naf_hub.made_with.describe_model`."""
    return describe_model(made.record.kind, model, name_model(model), made.options)


def result_stem(place: Path) -> Path:
    """Place of a photo's results, less their endings, by its own place alone.

    ``a.jpg`` gives ``a``; every other name stays whole (``a.png``, ``a.JPG``, and ``a.png.jpg`` too), so that no two
    photos of a folder have one result. Names that would get too long are cut, with a digest behind.
    """
    from .image_files import UNREADABLE, image_suffixes

    name = place.name
    if place.suffix == ".jpg" and Path(place.stem).suffix.lower() not in image_suffixes() | UNREADABLE:
        name = place.stem
    return place.with_name(_writable(name))


def _writable(name: str) -> str:
    """A name that still fits the 255 bytes of a file name with the longest ending behind it."""
    data = name.encode(errors="surrogateescape")
    if len(data) <= LONGEST_STEM:
        return name
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[: LONGEST_STEM - 9].decode(errors='ignore')}-{digest}"

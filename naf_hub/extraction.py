"""Features of many photos put on disk, by one process or several; what is there already is kept."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import atomic_file
from .contenders import name_model
from .errors import NafHubError
from .feature_files import is_whole
from .image_files import Search, search_images
from .image_sizes import ImageSize, describe_image_size, parse_image_size
from .made_with import KEY, describe_model, describe_photo, read_record, record, setting_differences
from .photo_batch import NO_ROOM, PhotoBatch, attempt
from .photo_tensors import photo_tensors
from .safetensors_writer import SafetensorsWriter
from .shard_writing import ShardFolder, ShardLimit
from .shares import Share
from .streaming import DTYPES
from .terminal import progress_bar, skip_line

if TYPE_CHECKING:
    from torch import nn

    from .pipeline import FeaturePipeline

log = logging.getLogger("naf_hub")
# Stands for the upsampler where there is none.
NO_UPSAMPLER = "none"
# What is done where features are there that differ.
REMEDY = "remove it to have it made anew, or choose another -o"


class ExtractionError(NafHubError, ValueError):
    """Photos or a folder cannot be extracted as they are asked for."""


@dataclasses.dataclass
class Extraction:
    """What :func:`extract_features` did.

    Attributes:
        written: photos whose features were computed.
        kept: photos whose features were there.
        failures: by photo, why there are none.
        damaged: shards that cannot be read and were not replaced, each with the reason.
    """

    written: int = 0
    kept: int = 0
    failures: dict[Path, str] = dataclasses.field(default_factory=dict)
    damaged: dict[Path, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class FileSettings:
    """What is written for a photo that has a file of its own; see :class:`~naf_hub.photo_batch.ResultSettings`."""

    settings: Mapping[str, Any]

    def of(self, target: Path) -> dict[str, Any]:
        """Settings on which a file depends."""
        return dict(self.settings)

    def outputs(self, stem: Path) -> list[Path]:
        """What is written for one photo."""
        return [stem.with_name(f"{stem.name}.safetensors")]


def extract_features(
    model: FeaturePipeline | nn.Module,
    images: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | Search,
    out: str | os.PathLike[str],
    *,
    size: ImageSize | str = 448,
    dtype: str = "float16",
    share: Share | None = None,
    shards_of: ShardLimit | None = None,
    models: Mapping[str, Any] | None = None,
    progress: bool = True,
    tell: Callable[[str], None] = log.warning,
) -> Extraction:
    """Write the features of photos to a folder; a second call does what is missing.

    The features of one photo at a time are in memory; where these do not fit and the upsampler works by rows, a strip
    of them. A photo that fails is told and left out. :func:`naf_hub.open_features` reads the folder.

    Args:
        model: a pipeline, for upsampled features (C, H, W) and those of low resolution (C, h, w) beside them; or a
            backbone, for these alone.
        images: files, folders (searched recursively) and patterns, or what a search found.
        out: the folder; its folders mirror those searched.
        size: pixels that photos are brought to: N (the shorter side), (H, W), or ``None``, as they are; or as the
            command line has it, ``"448x640"``.
        dtype: ``"float16"`` or ``"float32"`` of what is written.
        share: which of the photos, so that several processes may share them; default all.
        shards_of: write shards that each hold so much; default a file for each photo.
        models: what results say of the model, see :func:`~naf_hub.made_with.describe_model`; needed where it was made
            with constructor options, which a model does not know.
        progress: show a bar, where standard error is a terminal.
        tell: told of each photo that fails, in one line.

    Raises:
        ExtractionError: the folder holds features that were made otherwise, or two photos are called the same.
        FileNotFoundError: no such images.
        OSError: the folder cannot be written, or the disk is full; what was written stays.
    """
    size = parse_image_size(size) if isinstance(size, str) else size
    if dtype not in DTYPES:
        raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, got {dtype!r}")
    out, share = Path(out), share or Share()
    found = _search(images, out)
    require_places_apart(found.images)
    require_writable(out)
    settings = {**(models or describe_models(model)), "size": describe_image_size(size), "dtype": dtype}
    require_like(out, settings, shards_of is not None)
    mine = Search(share.pick(found.images))
    done = Extraction()
    with _writing(model, mine, out, settings, share, shards_of, done) as work, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "image resized from")  # the shapes say it
        for photo in progress_bar(mine.images, wanted=progress, desc="extract", unit="image"):
            result = work(photo)
            if "error" in result:
                done.failures[photo] = result["error"]
                tell(skip_line(result["error"]))
            elif "kept" in result:
                done.kept += 1
            else:
                done.written += 1
    return done


def describe_models(model: FeaturePipeline | nn.Module) -> dict[str, Any]:
    """What results say of a model that was made without constructor options; names, and digests of the weights."""
    from .pipeline import FeaturePipeline

    if not isinstance(model, FeaturePipeline):
        return {"upsampler": NO_UPSAMPLER} | describe_model("backbone", model, name_model(model))
    parts = {"upsampler": model.upsampler, "backbone": model.backbone}
    return {
        k: v for word, part in parts.items() for k, v in describe_model(word, part, name_model(part)).items()
    }


def require_writable(out: Path) -> None:
    """Require that files can be made in a folder, which is made if need be.

    Raises:
        OSError: they cannot.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise OSError(f"{out}: no file can be made there ({error.strerror}); choose another -o") from error


def require_places_apart(places: Mapping[Path, Path]) -> None:
    """Require that no two photos are called the same.

    Raises:
        ExtractionError: two are.
    """
    seen: dict[Path, Path] = {}
    for photo, place in places.items():
        other = seen.setdefault(place, photo)
        if other is not photo:
            raise ExtractionError(
                f"{other} and {photo} would both be called {place}: give the folder above both, whose folders "
                "names begin with"
            )


def require_like(out: Path, settings: Mapping[str, Any], in_shards: bool) -> None:
    """Require that the features in a folder, if there are any, were made with these settings, in this form.

    Raises:
        ExtractionError: they were not; says what differs.
    """
    for path in out.rglob("*.safetensors"):
        said = None if path.name.startswith(".") else read_record(path)
        if said is None:
            continue
        different = setting_differences(said, settings)
        if ("photos" in said) != in_shards:
            different.append("in shards" if "photos" in said else "one file a picture, not in shards")
        if different:
            raise ExtractionError(
                f"{out} holds features that were made otherwise ({'; '.join(different)}): choose another -o"
            )
        return


def _search(images: Any, out: Path) -> Search:
    if isinstance(images, Search):
        return images
    entries = [images] if isinstance(images, (str, os.PathLike)) else images
    found = search_images(entries, without=[out])
    if found.left_out:
        log.warning("%s", found.describe())
    return found


@contextlib.contextmanager
def _writing(
    model: nn.Module, found: Search, out: Path, settings: Mapping[str, Any], share: Share,
    shards_of: ShardLimit | None, done: Extraction,
) -> Iterator[Callable[[Path], dict[str, Any]]]:  # fmt: skip
    """What writes the features of one photo, and tells of it as :func:`~naf_hub.photo_batch.attempt` does."""
    size, dtype = parse_image_size(settings["size"]), settings["dtype"]
    if shards_of is None:

        def make(photo: Path, missing: list[Path], place: Path) -> dict[str, Any]:
            for target in missing:
                _write_file(target, model, photo, place, settings)
            return {"image": str(photo)}

        yield _stopped_by_full_disk(
            out, PhotoBatch(make, found, out, FileSettings(settings), False, REMEDY).run
        )
        return
    shards = ShardFolder(out, shards_of, settings, dtype, found.images.values(), share)

    def add(photo: Path) -> dict[str, Any]:
        place = found.images[photo]
        if shards.has(photo, place):
            return {"image": str(photo), "kept": True}
        tensors = photo_tensors(model, photo, size, dtype)
        shards.add(describe_photo(photo, place), tensors)
        return {"image": str(photo)}

    try:
        yield _stopped_by_full_disk(out, lambda photo: attempt(photo, add))
    finally:  # also when interrupted: what is computed is kept
        shards.finish()
        shards.write_index()
        done.damaged = {path: why for path, why in shards.damaged.items() if not is_whole(path)}


def _stopped_by_full_disk(
    out: Path, work: Callable[[Path], dict[str, Any]]
) -> Callable[[Path], dict[str, Any]]:
    def run(photo: Path) -> dict[str, Any]:
        try:
            return work(photo)
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            raise OSError(
                error.errno, f"{error.strerror}: make room and run the same again, which goes on", str(out)
            ) from error

    return run


def _write_file(
    target: Path, model: nn.Module, photo: Path, place: Path, settings: Mapping[str, Any]
) -> None:
    tensors = photo_tensors(model, photo, parse_image_size(settings["size"]), settings["dtype"])
    made = record(settings, describe_photo(photo, place))
    with atomic_file(target) as temporary, open(temporary, "r+b", buffering=0) as file:
        writer = SafetensorsWriter(file, 1000 + 2 * len(made), settings["dtype"])
        writer.add(tensors)
        writer.finish({KEY: made})

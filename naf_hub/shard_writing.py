"""Features of many photos written to shards, a file of so many photos or bytes each, with an index."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .atomic import atomic_file
from .feature_files import FeatureFile, FeatureFileError
from .feature_index import INDEX, Shard, require_own_index, write_index
from .made_with import KEY, differences, is_beginning, read_record, shard_record
from .parts.budget import parse_bytes
from .safetensors_writer import ENTRY, SafetensorsWriter, bytes_of
from .shares import Share

if TYPE_CHECKING:
    from torch import Tensor

# So long may a header be, as the format has it; a shard ends before.
LONGEST_ROOM = 90_000_000
# What a photo's part of the record takes beside its name, at most.
PHOTO = 400


@dataclasses.dataclass(frozen=True)
class ShardLimit:
    """When a shard is full: at so many photos, or before it holds more bytes of features; ``None`` is no limit."""

    photos: int | None = None
    bytes: int | None = None

    @classmethod
    def parse(cls, text: str) -> ShardLimit:
        """``"500"`` photos, or ``"2GiB"``.

        Raises:
            ValueError: neither.
        """
        try:
            if text.strip().isdigit():
                if int(text) < 1:
                    raise ValueError
                return cls(photos=int(text))
            return cls(bytes=parse_bytes(text))
        except ValueError as error:
            raise ValueError(
                f"{text!r} is neither a number of pictures, such as 500, nor a size, such as 2GiB"
            ) from error

    def likely_photos(self, bytes_each: int) -> int:
        """How many photos a shard will hold, if each takes so many bytes."""
        return self.photos or max(1, (self.bytes or 1) // bytes_each)


class _Dropped(Exception):
    """Ends a shard that holds nothing."""


class ShardFolder:
    """A folder of shards: knows what is there, and appends what is not.

    A shard appears under its name when it is full, and what it holds is in no other; names differ between shares, so
    that several processes may write to one folder. What a killed process left of a shard is removed, and made anew.

    Args:
        out: the folder; made if need be.
        limit: of each shard.
        settings: that the features are made with.
        dtype: ``"float16"`` or ``"float32"``.
        photos: what each is called, of those to come.
        share: of this process.

    Raises:
        FileExistsError: a file that is no index of ours has the name of one.

    Attributes:
        damaged: shards that cannot be read, each with the reason; their photos are made anew, and new shards take
            their names.
    """

    def __init__(self, out: Path, limit: ShardLimit, settings: Mapping[str, Any], dtype: str,
                 photos: Iterable[Path], share: Share) -> None:  # fmt: skip
        self.out, self.limit, self.settings, self.dtype, self.share = out, limit, settings, dtype, share
        require_own_index(out)
        names = [place.as_posix() for place in photos]
        self.room_each = max((_room(name) for name in names), default=0)
        self.there: dict[str, dict[str, Any]] = {}
        self.damaged: dict[Path, str] = {}
        wanted = set(names)
        for path, said in shard_records(out):
            try:
                FeatureFile.open_all(path)
            except FeatureFileError as error:
                self.damaged[path] = str(error)
                continue
            for photo in said["photos"]:
                if photo["photo"] in wanted:
                    self.there[photo["photo"]] = {**said, "photos": (), "photo": photo}
        self._open: contextlib.ExitStack | None = None

    def has(self, photo: Path, place: Path) -> bool:
        """Whether a shard holds the features of a photo.

        Raises:
            FileExistsError: of an earlier version of it, or with other settings.
        """
        found = self.there.get(place.as_posix())
        if found is None:
            return False
        different = differences(found, self.settings, photo, place)
        if different:
            raise FileExistsError(
                f"{photo}: {self.out} holds its features, made otherwise ({'; '.join(different)}); choose another -o"
            )
        return True

    def add(
        self,
        made_of: dict[str, Any],
        tensors: Mapping[str, tuple[Iterable[Tensor], tuple[int, int, int, int]]],
    ) -> Path:
        """Append the features of a photo; returns the shard they will be in.

        Args:
            made_of: see :func:`~naf_hub.made_with.describe_photo`.
            tensors: see :meth:`~naf_hub.safetensors_writer.SafetensorsWriter.add`.

        Raises:
            OSError: they cannot be written.
            ValueError: the photo's name is no text, which the names of tensors are.
        """
        name = made_of["photo"]
        if not _is_text(name):
            raise ValueError("its name is no valid text, as the names in a shard are: rename it")
        size = sum(bytes_of(shape, self.dtype) for _, shape in tensors.values())
        if self._open is not None and self._is_full(size):
            self.finish()
        if self._open is None:
            self._begin(size)
        self._writer.add({f"{kind}/{name}": part for kind, part in tensors.items()})
        self._photos.append(made_of)
        return self._path

    def finish(self) -> None:
        """End the shard at hand, full or not.

        Raises:
            OSError: it cannot be written.
        """
        if self._open is None:
            return
        stack, self._open = self._open, None
        with contextlib.suppress(_Dropped), stack:
            if not self._photos:
                raise _Dropped
            self._writer.finish({KEY: shard_record(self.settings, self._photos)})

    def write_index(self) -> None:
        """Write the index of the shards that are there, those of other processes among them.

        Raises:
            OSError: it cannot be written.
        """
        shards: dict[str, Shard] = {}
        for path, _ in shard_records(self.out):
            with contextlib.suppress(FeatureFileError):
                names = [
                    f"{kind}/{file.photo}"
                    for file in FeatureFile.open_all(path)
                    for kind in ["features"] * file.upsampled + ["low_res"] * (file.low_res_shape is not None)
                ]
                shards[path.name] = Shard(path.stat().st_size, tuple(names))
        if shards:
            write_index(self.out, shards, self.settings)

    def _is_full(self, size: int) -> bool:
        count = len(self._photos)
        return (
            (self.limit.photos is not None and count >= self.limit.photos)
            or (self.limit.bytes is not None and count > 0 and self._writer.end + size > self.limit.bytes)
            or self._header + (count + 1) * self.room_each > self._writer.room
        )

    def _begin(self, size: int) -> None:
        self._header = 1000 + len(json.dumps(shard_record(self.settings, [])))
        room = min(self._header + self.limit.likely_photos(size) * self.room_each, LONGEST_ROOM)
        self._path = self._free_path()
        self._photos: list[dict[str, Any]] = []
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic_file(self._path))
            file = stack.enter_context(open(temporary, "r+b", buffering=0))
            self._writer = SafetensorsWriter(file, room, self.dtype)
            self._open = stack.pop_all()

    def _free_path(self) -> Path:
        """A name for a shard: of a damaged one that falls to this share, else the first of its own that is free."""
        for path in sorted(self.damaged)[self.share.number - 1 :: self.share.of][:1]:
            del self.damaged[path]
            (self.out / INDEX).unlink(missing_ok=True)  # it may take the new one for the old
            return path
        number = 0
        while True:
            path = self.out / f"features-{self.share.number}of{self.share.of}-{number:05d}.safetensors"
            if not path.exists() or is_beginning(path):
                return path
            number += 1


def shard_records(folder: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The shards in a folder, damaged ones among them, each with its record."""
    for path in sorted(folder.glob("*.safetensors")):
        said = None if path.name.startswith(".") else read_record(path)
        if said is not None and isinstance(said.get("photos"), list):
            yield path, said


def _is_text(name: str) -> bool:
    """Whether a name can be written as UTF-8; names of files may hold any bytes."""
    return not any("\ud800" <= letter <= "\udfff" for letter in name)


def _room(name: str) -> int:
    """Bytes of the header that a photo takes at the most; its name stands in it three times."""
    return 2 * (len(json.dumps(name)) + ENTRY) + len(json.dumps(json.dumps(name))) + PHOTO

"""Features on disk, read as they lie there: a map, or a crop of one, without the rest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import NafHubError
from .feature_index import read_index
from .made_with import read_record

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".npy")


class FeatureFileError(NafHubError):
    """A file holds no features, or not all of them."""


@dataclasses.dataclass(frozen=True)
class FeatureFile:
    """Features of one photo; the file is opened anew for each reading, so that objects can be sent to workers.

    Attributes:
        path: ``.safetensors`` or ``.npy``; of a shard, which holds those of many photos, it is that of the shard.
        shape: (C, H, W) of the upsampled features; where there are none, of those of low resolution.
        low_res_shape: (C, h, w) of those before upsampling; ``None`` in a ``.npy`` file, which has none.
        dtype: ``"float16"`` or ``"float32"``.
        photo: what the photo is called, with its folders; empty where the file does not say.
        settings: what the features were made with; empty where the file does not say.
        upsampled: whether there are upsampled features.
        in_shard: whether the file holds those of other photos, too.
    """

    path: Path
    shape: tuple[int, ...]
    low_res_shape: tuple[int, ...] | None
    dtype: str
    photo: str
    settings: Mapping[str, Any]
    upsampled: bool = True
    in_shard: bool = False

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FeatureFile:
        """Read what a file says of itself.

        Raises:
            FeatureFileError: it holds no features, those of many photos, or fewer bytes than it says.
        """
        files = cls.open_all(path)
        if len(files) != 1 or files[0].in_shard:
            raise FeatureFileError(f"{path}: holds features of {len(files)} photos; open its folder")
        return files[0]

    @classmethod
    def open_all(cls, path: str | os.PathLike[str]) -> list[FeatureFile]:
        """Read what a file says of itself: of each photo of a shard, or of its one.

        Raises:
            FeatureFileError: it holds no features, or fewer bytes than it says.
        """
        path = Path(path)
        said = read_record(path) or {}
        shapes, dtype = _npy_header(path) if path.suffix == ".npy" else _safetensors_header(path)
        settings, shard = said.get("settings") or {}, said.get("photos")
        files = []
        for of in shard if isinstance(shard, list) else [said.get("photo")]:
            name = str(of.get("photo") or "") if isinstance(of, dict) else ""
            whole, low = (shapes.get(_key(kind, name, bool(shard))) for kind in ("features", "low_res"))
            shape = low if whole is None else whole
            if shape is None or any(given is not None and len(given) != 3 for given in (whole, low)):
                raise FeatureFileError(f"{path}: holds no features (C, H, W) as naf-hub writes them")
            files.append(cls(path, shape, low, dtype, name, settings, whole is not None, bool(shard)))
        return files

    def read(self, rows: slice | None = None, columns: slice | None = None) -> Tensor:
        """Features (C, n, m) of some rows and columns of pixels, default all; no others are read.

        Raises:
            FeatureFileError: the file is gone or damaged.
            ValueError: a slice with a step.
        """
        wanted = [part or slice(None) for part in (rows, columns)]
        if any(part.step not in (None, 1) for part in wanted):
            raise ValueError("crops are of neighbouring pixels: slices take no step")
        rows, columns = (slice(*part.indices(n)) for part, n in zip(wanted, self.shape[1:], strict=True))
        return self._read("features" if self.upsampled else "low_res", self.shape, (rows, columns))

    def read_low_res(self) -> Tensor:
        """Features (C, h, w) before upsampling.

        Raises:
            FeatureFileError: the file has none, or is gone or damaged.
        """
        if self.low_res_shape is None:
            raise FeatureFileError(
                f"{self.path}: holds the upsampled features alone; .safetensors holds both"
            )
        return self._read("low_res", self.low_res_shape, (slice(None), slice(None)))

    def _read(self, kind: str, shape: tuple[int, ...], crop: tuple[slice, slice]) -> Tensor:
        import numpy as np
        import torch
        from safetensors import SafetensorError, safe_open

        try:
            if self.path.suffix == ".npy":
                array = np.load(self.path, mmap_mode="r", allow_pickle=False)
                self._require(tuple(array.shape), shape, str(array.dtype))
                return torch.from_numpy(np.array(array[:, crop[0], crop[1]]))
            with safe_open(self.path, "pt") as file:
                part = file.get_slice(_key(kind, self.photo, self.in_shard))
                self._require(tuple(part.get_shape()), shape, _name_dtype(part.get_dtype()))
                return part[:, crop[0], crop[1]]
        except (OSError, ValueError, SafetensorError) as error:
            raise FeatureFileError(f"{self.path}: cannot be read ({error})") from error

    def _require(self, found: tuple[int, ...], shape: tuple[int, ...], dtype: str) -> None:
        """Require that the file holds what it did when it was opened."""
        if (found, dtype) != (shape, self.dtype):
            raise FeatureFileError(
                f"{self.path}: holds {found} {dtype} and held {shape} {self.dtype} when it was opened; "
                "open it anew"
            )


def is_whole(path: Path) -> bool:
    """Whether a file of features can be read; of other files, such as pictures, this is taken for granted."""
    try:
        return path.suffix not in SUFFIXES or bool(FeatureFile.open_all(path))
    except FeatureFileError:
        return False


def _key(kind: str, photo: str, in_shard: bool) -> str:
    return f"{kind}/{photo}" if in_shard else kind


def _name_dtype(dtype: Any) -> str:
    return {"F16": "float16", "F32": "float32"}.get(str(dtype), str(dtype))


def _npy_header(path: Path) -> tuple[dict[str, tuple[int, ...]], str]:
    import numpy as np

    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)  # refuses a file that is cut
    except (OSError, ValueError, EOFError) as error:
        raise FeatureFileError(f"{path}: is no whole .npy file ({error})") from error
    return {"features": tuple(array.shape)}, str(array.dtype)


def _safetensors_header(path: Path) -> tuple[dict[str, tuple[int, ...]], str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "np") as file:  # refuses a file that is cut
            parts = {key: file.get_slice(key) for key in file.keys()}  # noqa: SIM118  (no mapping)
            shapes = {key: tuple(part.get_shape()) for key, part in parts.items()}
            kinds = {_name_dtype(part.get_dtype()) for key, part in parts.items() if _is_ours(key)}
    except (OSError, SafetensorError) as error:
        raise FeatureFileError(f"{path}: is no whole .safetensors file ({error})") from error
    return shapes, ", ".join(sorted(kinds))


def _is_ours(key: str) -> bool:
    return key.partition("/")[0] in ("features", "low_res")


class FeatureFolder(Mapping[str, FeatureFile]):
    """The features below a folder by the names of their photos; headers alone are read at first, and of shards
    the index.

    Attributes:
        damaged: files that cannot be read, each with the reason; not among the keys.
    """

    def __init__(self, files: Mapping[str, FeatureFile | Path], damaged: Mapping[Path, str]) -> None:
        self._files, self.damaged = dict(files), dict(damaged)

    def __getitem__(self, photo: str) -> FeatureFile:
        """
        Raises:
            KeyError: no features of a photo called so.
            FeatureFileError: those of its shard cannot be read.
        """
        try:
            file = self._files[photo]
        except KeyError:
            raise KeyError(f"no features of a photo called {photo!r} among the {len(self)} here") from None
        if isinstance(file, FeatureFile):
            return file
        there = {found.photo: found for found in FeatureFile.open_all(file)}
        if photo not in there:
            raise FeatureFileError(
                f"{file}: holds no features of {photo}, as the index says; remove the index"
            )
        self._files.update(
            {name: there[name] for name, at in self._files.items() if at == file and name in there}
        )
        return there[photo]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, photo: object) -> bool:
        return photo in self._files

    def __len__(self) -> int:
        return len(self._files)

    def settings(self) -> Mapping[str, Any]:
        """What all of them were made with.

        Raises:
            FeatureFileError: not all with the same; says what differs.
        """
        first: FeatureFile | None = None
        for file in self.values():
            first = first or file
            keys = [
                k for k in {*first.settings, *file.settings} if first.settings.get(k) != file.settings.get(k)
            ]
            if keys:
                raise FeatureFileError(f"{file.path} and {first.path} differ in {', '.join(sorted(keys))}")
        return first.settings if first else {}


def open_features(folder: str | os.PathLike[str]) -> FeatureFolder:
    """Features that ``naf-hub upsample`` or ``naf-hub extract`` wrote to a folder and those below it.

    >>> features = naf_hub.open_features("out")
    >>> features["sub/cat.jpg"].read(slice(100, 164), slice(0, 64))  # (C, 64, 64); no more is read

    Args:
        folder: of ``-o``; one file a photo, or shards. Files that do not say which photo they are of are called by
            their own place in it.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it.
        FeatureFileError: two files are of one photo.
    """
    root = Path(folder)
    if not root.is_dir():
        raise FileNotFoundError(f"{root}: no such folder" if not root.exists() else f"{root}: is no folder")
    index = read_index(root)
    paths = sorted(
        path for path in root.rglob("*") if path.suffix in SUFFIXES and not path.name.startswith(".")
    )
    if not paths and not index:
        raise FileNotFoundError(f"no features ({' or '.join(SUFFIXES)} files) in {root}")
    files: dict[str, FeatureFile | Path] = {}
    damaged = {root / name: f"{root / name}: is gone; the index names it" for name in index}
    for path in paths:
        damaged.pop(path, None)
        listed = index.get(path.name) if path.parent == root else None
        if listed is not None and path.stat().st_size == listed.bytes:
            found: dict[str, FeatureFile | Path] = dict.fromkeys(listed.photos, path)
        else:
            try:
                found = {
                    file.photo or path.relative_to(root).as_posix(): file
                    for file in FeatureFile.open_all(path)
                }
            except FeatureFileError as error:
                damaged[path] = str(error)
                continue
        for name, file in found.items():
            if name in files:
                other = files[name]
                other = other.path if isinstance(other, FeatureFile) else other
                raise FeatureFileError(f"{other} and {path} are both of {name}; open a folder that holds one")
            files[name] = file
    return FeatureFolder(dict(sorted(files.items())), damaged)

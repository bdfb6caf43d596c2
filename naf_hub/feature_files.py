"""Features that ``naf-hub upsample`` wrote, read as they lie on disk: a map, or a crop of one, without the rest."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import NafHubError
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
        path: ``.safetensors`` or ``.npy``.
        shape: (C, H, W) of the upsampled features.
        low_res_shape: (C, h, w) of those before upsampling; ``None`` in a ``.npy`` file, which has none.
        dtype: ``"float16"`` or ``"float32"``.
        photo: what the photo is called, with its folders; empty where the file does not say.
        settings: what the features were made with; empty where the file does not say.
    """

    path: Path
    shape: tuple[int, ...]
    low_res_shape: tuple[int, ...] | None
    dtype: str
    photo: str
    settings: Mapping[str, Any]

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> FeatureFile:
        """Read what a file says of itself.

        Raises:
            FeatureFileError: it holds no features, or fewer bytes than it says.
        """
        path = Path(path)
        said = read_record(path) or {}
        photo = str((said.get("photo") or {}).get("photo") or "")
        shapes, dtype = _npy_header(path) if path.suffix == ".npy" else _safetensors_header(path)
        whole = shapes.get("features")
        if whole is None or any(len(shape) != 3 for shape in shapes.values()):
            raise FeatureFileError(f"{path}: holds no features (C, H, W) as naf-hub upsample writes them")
        return cls(path, whole, shapes.get("low_res"), dtype, photo, said.get("settings") or {})

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
        return self._read("features", (rows, columns))

    def read_low_res(self) -> Tensor:
        """Features (C, h, w) before upsampling.

        Raises:
            FeatureFileError: the file has none, or is gone or damaged.
        """
        if self.low_res_shape is None:
            raise FeatureFileError(
                f"{self.path}: holds the upsampled features alone; .safetensors holds both"
            )
        return self._read("low_res", (slice(None), slice(None)))

    def _read(self, name: str, crop: tuple[slice, slice]) -> Tensor:
        import numpy as np
        import torch
        from safetensors import SafetensorError, safe_open

        try:
            if self.path.suffix == ".npy":
                array = np.load(self.path, mmap_mode="r", allow_pickle=False)
                return torch.from_numpy(np.array(array[:, crop[0], crop[1]]))
            with safe_open(self.path, "pt") as file:
                return file.get_slice(name)[:, crop[0], crop[1]]
        except (OSError, ValueError, SafetensorError) as error:
            raise FeatureFileError(f"{self.path}: cannot be read ({error})") from error


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
            there = {"features", "low_res"} & set(file.keys())
            parts = {key: file.get_slice(key) for key in there}
            shapes = {key: tuple(part.get_shape()) for key, part in parts.items()}
            kinds = {part.get_dtype() for part in parts.values()}
    except (OSError, SafetensorError) as error:
        raise FeatureFileError(f"{path}: is no whole .safetensors file ({error})") from error
    names = {"F16": "float16", "F32": "float32"}
    return shapes, ", ".join(sorted(names.get(str(kind), str(kind)) for kind in kinds))


class FeatureFolder(Mapping[str, FeatureFile]):
    """The features below a folder by the names of their photos; headers alone are read at first.

    Attributes:
        damaged: files that cannot be read, each with the reason; not among the keys.
    """

    def __init__(self, files: Mapping[str, FeatureFile], damaged: Mapping[Path, str]) -> None:
        self._files, self.damaged = dict(files), dict(damaged)

    def __getitem__(self, photo: str) -> FeatureFile:
        return self._files[photo]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def settings(self) -> Mapping[str, Any]:
        """What all of them were made with.

        Raises:
            FeatureFileError: not all with the same; says what differs.
        """
        first: FeatureFile | None = None
        for file in self._files.values():
            first = first or file
            keys = [
                k for k in {*first.settings, *file.settings} if first.settings.get(k) != file.settings.get(k)
            ]
            if keys:
                raise FeatureFileError(f"{file.path} and {first.path} differ in {', '.join(sorted(keys))}")
        return first.settings if first else {}


def open_features(folder: str | os.PathLike[str]) -> FeatureFolder:
    """Features that ``naf-hub upsample`` wrote to a folder and those below it.

    >>> features = naf_hub.open_features("out")
    >>> features["sub/cat.jpg"].read(slice(100, 164), slice(0, 64))  # (C, 64, 64); no more is read

    Args:
        folder: of ``-o``. Files that do not say which photo they are of are called by their own place in it.

    Raises:
        FileNotFoundError: there is no such folder, or nothing in it.
        FeatureFileError: two files are of one photo.
    """
    root = Path(folder)
    paths = sorted(
        path for path in root.rglob("*") if path.suffix in SUFFIXES and not path.name.startswith(".")
    )
    if not paths:
        raise FileNotFoundError(f"no features ({' or '.join(SUFFIXES)} files) in {root}")
    files: dict[str, FeatureFile] = {}
    damaged: dict[Path, str] = {}
    for path in paths:
        try:
            file = FeatureFile.open(path)
        except FeatureFileError as error:
            damaged[path] = str(error)
            continue
        name = file.photo or path.relative_to(root).as_posix()
        if name in files:
            raise FeatureFileError(
                f"{files[name].path} and {path} are both of {name}; open a folder that holds one"
            )
        files[name] = file
    return FeatureFolder(files, damaged)

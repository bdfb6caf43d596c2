"""Segmentation data on disk: ``{train,val}/{images,labels}/`` and a ``classes.json`` beside them."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from naf_hub import NafHubError
from naf_hub.errors import ImageError
from naf_hub.image_files import files_below, has_image_name
from naf_hub.images import read_image, stored_values

from .transforms import Geometry

IGNORE = -1
_UNKNOWN = -2
_ID_LIMIT = 65_536  # ids come from 8- or 16-bit pictures
_ASPECT_TOLERANCE = 0.02
_FORM = '{"classes": [{"id": 0, "name": "sky"}, ...], "ignore_index": 255}'


class DatasetError(NafHubError, ValueError):
    """The data folder is not laid out as expected, or a label does not fit ``classes.json``."""


@dataclasses.dataclass(frozen=True)
class Classes:
    """What the ids in the label pictures mean.

    Attributes:
        names: name of each scored class, in the order of ``classes.json``.
        table: int64 lookup from label id to class index, ``IGNORE``, or unknown.
        allowed: the ids in words, for messages.
    """

    names: tuple[str, ...]
    table: Tensor
    allowed: str

    def index(self, ids: Tensor, file: str | os.PathLike[str]) -> Tensor:
        """Class indices (int64, ``IGNORE`` where void) of label ids.

        Raises:
            DatasetError: an id that ``classes.json`` does not list, with the file.
        """
        # One slot past the end of the table stands for every larger id; negative ids are unknown too.
        ids = ids.long()
        slots = torch.where(ids < 0, len(self.table) - 1, ids.clamp(max=len(self.table) - 1))
        indices = self.table[slots]
        if bool((indices == _UNKNOWN).any()):
            wrong = sorted(set(ids[indices == _UNKNOWN].tolist()))
            shown = ", ".join(map(str, wrong[:5])) + (", ..." if len(wrong) > 5 else "")
            raise DatasetError(f"{file}: label id {shown} is not in classes.json, which has {self.allowed}")
        return indices


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
    table = torch.full((max(ids + sorted(void)) + 2,), _UNKNOWN, dtype=torch.int64)
    for index, (number, _) in enumerate(scored):
        table[number] = index
    for number in void:
        table[number] = IGNORE
    allowed = f"ids {', '.join(str(number) for number, _ in scored)}"
    if void:
        allowed += f" and {', '.join(map(str, sorted(void)))} (ignored)"
    return Classes(tuple(name for _, name in scored), table, allowed)


def _check_id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _ID_LIMIT:
        raise ValueError(f"class id {value!r} is not an integer from 0 to {_ID_LIMIT - 1}")
    return value


def read_label(path: str | os.PathLike[str], classes: Classes) -> Tensor:
    """(H, W) int64 class indices of a one-channel label picture (grey or palette), turned as its EXIF data says.

    Raises:
        ImageError: not a readable picture.
        DatasetError: a colour picture, or an id that ``classes.json`` does not list.
    """
    mode, values = stored_values(path)
    if values.ndim != 2 or values.dtype.kind not in "biu":
        raise DatasetError(
            f"{path}: a label must hold one class id a pixel (grey or palette picture), not {mode}"
        )
    return classes.index(torch.from_numpy(values.astype(np.int64)), path)


@dataclasses.dataclass(frozen=True)
class LabelledImage:
    """One picture, ready for the backbone.

    Attributes:
        position: index in the folder.
        image: (3, H, W) floats in [0, 1].
        label: (h, w) int64 class indices, ``IGNORE`` where void.
    """

    position: int
    image: Tensor
    label: Tensor


class SegmentationFolder(Dataset[LabelledImage]):
    """The pairs of one split, sorted by name. ``images`` and ``labels`` match by name without suffix.

    Args:
        root: the data folder.
        split: ``"train"`` or ``"val"``.
        classes: see :func:`read_classes`.
        geometry: sizes to bring images and labels to.
        limit: keep at most this many pairs, evenly spaced.
        out: folder of results, which is not searched.

    Raises:
        DatasetError: a folder is missing or empty, or a label has no image.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        split: str,
        classes: Classes,
        geometry: Geometry | None = None,
        limit: int | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        folder = Path(root) / split
        for part in (folder / "images", folder / "labels"):
            if not part.is_dir():
                raise DatasetError(f"no folder {part}; expected {{train,val}}/{{images,labels}}/ in {root}")
        left_out = () if out is None else (Path(out).resolve(),)
        images = _by_stem(folder / "images", left_out)
        labels = _by_stem(folder / "labels", left_out)
        if not labels:
            raise DatasetError(f"no label picture in {folder / 'labels'}")
        for stem, label in labels.items():
            if stem not in images:
                raise DatasetError(f"{label}: no image of that name in {folder / 'images'}")
        self.unlabelled = len(images.keys() - labels.keys())
        self.pairs = [(images[stem], labels[stem]) for stem in sorted(labels)]
        if limit is not None and limit < len(self.pairs):
            self.pairs = [self.pairs[i * len(self.pairs) // limit] for i in range(limit)]
        self.classes = classes
        self.geometry = geometry or Geometry()

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, position: int) -> LabelledImage:
        """Read one pair.

        Raises:
            ImageError: the image or the label cannot be read.
            DatasetError: see :func:`read_label`; or image and label differ in shape.
        """
        image_path, label_path = self.pairs[position]
        image, label = read_image(image_path), read_label(label_path, self.classes)
        skew = (image.shape[2] * label.shape[0]) / (image.shape[1] * label.shape[1])
        if abs(skew - 1) > _ASPECT_TOLERANCE:
            turned = (
                " (one of them turned by its EXIF data?)" if tuple(label.shape) == image.shape[:0:-1] else ""
            )
            raise DatasetError(
                f"{label_path}: label is {label.shape[0]}x{label.shape[1]}, its image {image_path} "
                f"{image.shape[1]}x{image.shape[2]}: not the same shape{turned}; save both as they are viewed"
            )
        return LabelledImage(position, *self.geometry.apply(image, label))


class Readable(Dataset["LabelledImage | ImageError"]):
    """A folder whose broken pictures come out as the error, so that a caller can count and skip them."""

    def __init__(self, folder: SegmentationFolder) -> None:
        self.folder = folder

    def __len__(self) -> int:
        return len(self.folder)

    def __getitem__(self, position: int) -> LabelledImage | ImageError:
        try:
            return self.folder[position]
        except ImageError as error:
            return error


def _by_stem(folder: Path, left_out: tuple[Path, ...]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in sorted(files_below(folder, left_out)):
        if not has_image_name(path):
            continue
        stem = path.relative_to(folder).with_suffix("").as_posix()
        if stem in found:
            raise DatasetError(f"{path} and {found[stem]} have the same name; keep one")
        found[stem] = path
    return found

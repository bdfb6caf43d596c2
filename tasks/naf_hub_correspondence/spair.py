"""SPair-71k as it is published: photos, keypoints and boxes of each, and the pairs of its test split."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from naf_hub.errors import DatasetError
from naf_hub.images import read_image
from naf_hub.paired_files import picture_sides

ARCHIVE = "http://cvlab.postech.ac.kr/research/SPair-71k/data/SPair-71k.tar.gz"
FOLDER = "SPair-71k"
LAYOUT = (
    "DATA/JPEGImages/CATEGORY/*.jpg, DATA/ImageAnnotation/CATEGORY/*.json and "
    f"DATA/PairAnnotation/test/*:CATEGORY.json, or all below DATA/{FOLDER}/, as in {ARCHIVE}"
)


@dataclasses.dataclass(frozen=True)
class Annotated:
    """One photo.

    Attributes:
        path: of the photo.
        size: height and width in pixels.
        points: (x, y) pixels by the number of the keypoint, those that are visible.
        extent: the longer side of the object's box in pixels.
    """

    path: Path
    size: tuple[int, int]
    points: Mapping[int, tuple[float, float]]
    extent: float

    def at(self, numbers: list[int]) -> Tensor:
        """(N, 2) pixels of some keypoints."""
        return torch.tensor([self.points[number] for number in numbers], dtype=torch.float64)


def find_spair(root: Path) -> Path:
    """The folder of the data set: ``root``, or where the archive puts it below."""
    inner = root / FOLDER
    return inner if inner.is_dir() and not (root / "PairAnnotation").is_dir() else root


def find_pairs(root: Path) -> dict[str, list[Path]]:
    """Files of the test pairs by category, each sorted by name.

    Raises:
        DatasetError: a folder is missing or holds no pair.
    """
    for part in ("JPEGImages", "ImageAnnotation", "PairAnnotation/test"):
        if not (root / part).is_dir():
            raise DatasetError(
                f"no folder {root / part}; expected {LAYOUT}. Without it: naf-hub eval homography"
            )
    found: dict[str, list[Path]] = {}
    for path in sorted((root / "PairAnnotation" / "test").glob("*:*.json")):
        found.setdefault(path.stem.rpartition(":")[2], []).append(path)
    if not found:
        raise DatasetError(f"no pair in {root / 'PairAnnotation' / 'test'}; expected {LAYOUT}")
    return dict(sorted(found.items()))


def read_pair(path: Path) -> tuple[str, str]:
    """Names of the source photo and the target photo of a pair; its own copies of keypoints are not used.

    Raises:
        DatasetError: unreadable, or without them.
    """
    data = _read(path)
    try:
        return str(data["src_imname"]), str(data["trg_imname"])
    except KeyError as error:
        raise DatasetError(f"{path}: no {error} in it; the pair files of {ARCHIVE} have one") from error


def annotation_file(root: Path, category: str, name: str) -> Path:
    """Where the annotation of a photo lies."""
    return (root / "ImageAnnotation" / category / name).with_suffix(".json")


def read_annotation(root: Path, category: str, name: str) -> Annotated:
    """What is known of a photo.

    Args:
        root: folder of the data set.
        category: of the pair.
        name: of the photo's file.

    Raises:
        DatasetError: the annotation or the photo is missing, or the annotation is no such thing.
    """
    path = annotation_file(root, category, name)
    photo = root / "JPEGImages" / category / name
    if not photo.is_file():
        raise DatasetError(f"no photo {photo}; expected {LAYOUT}")
    data = _read(path)
    try:
        points = {int(n): (float(p[0]), float(p[1])) for n, p in data["kps"].items() if p is not None}
        left, top, right, bottom = (float(value) for value in data["bndbox"])
        size = int(data["image_height"]), int(data["image_width"])
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise DatasetError(
            f"{path}: needs kps, bndbox, image_width and image_height as in {ARCHIVE} ({error!r})"
        ) from error
    return Annotated(photo, size, points, max(right - left, bottom - top))


def require_photos(root: Path, pairs: Mapping[str, Sequence[tuple[str, str]]]) -> None:
    """Every photo of the pairs must be there with its annotation and of the size that this states: told before a long
    run, by the heads of the files, not in its middle.

    Args:
        root: folder of the data set.
        pairs: names of photos by category.

    Raises:
        DatasetError: see :func:`read_annotation`; or a photo has another size.
        ImageError: a photo is none.
    """
    for category, names in pairs.items():
        for name in sorted({name for pair in names for name in pair}):
            photo = read_annotation(root, category, name)
            sides = picture_sides(photo.path)
            if sides is None:
                read_image(photo.path)  # says what is wrong with it
            elif list(sides) != sorted(photo.size):
                stated = "x".join(map(str, photo.size))
                raise DatasetError(
                    f"{photo.path} has sides of {sides[0]} and {sides[1]} pixels, its annotation says {stated}"
                )


def _read(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); expected {LAYOUT}") from error
    if not isinstance(data, dict):
        raise DatasetError(f"{path} holds no JSON object; expected {LAYOUT}")
    return data

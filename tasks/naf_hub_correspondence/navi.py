"""NAVI as it is published: photos of objects with depth and cameras, and the pairs of its test split."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from naf_hub.errors import DatasetError

from .poses import Pose, angles

SOURCE = "https://github.com/google/navi"
FOLDERS = ("navi_v1", "navi_v1.5")
SPLIT = "wild_set"
# Scenes of the other kind that v1 has. v1.5 adds videos, by which no further object may enter.
OTHER_SCENES = "multiview*"
LAYOUT = (
    f"DATA/OBJECT/{SPLIT}/ with images/*.jpg, depth/*.png and annotations.json, and a folder {OTHER_SCENES} beside it, "
    f"or all below DATA/{FOLDERS[0]}/, as in {SOURCE}"
)
SHRUNK = "downsampled_"
"""Stands before the names of images and depths that the published kit has made smaller."""
MILLIMETRES = 1000
LARGEST_ANGLE = 120.0
"""Degrees between the cameras of a pair."""
LARGEST_SEED = 2**64 - 1
"""Of torch's generator."""
# Degrees below which two rotations are the same but for rounding.
_SAME = 1e-3


@dataclasses.dataclass(frozen=True)
class View:
    """One photo of an object.

    Attributes:
        thing: name of the object.
        image, depth: files; those that were made smaller, where they are there.
        annotations: the file that tells the rest.
        size: height and width in pixels of the photo as it was taken.
        focal: focal length in pixels at that size.
        pose: from the object to the camera.
    """

    thing: str
    image: Path
    depth: Path
    annotations: Path
    size: tuple[int, int]
    focal: float
    pose: Pose


def find_navi(root: Path) -> Path:
    """The folder of the data set: ``root``, or where the archive puts it below."""
    below = (root / name for name in FOLDERS)
    return next((path for path in (root, *below) if any(path.glob(f"*/{SPLIT}"))), root)


def find_views(root: Path) -> dict[str, list[View]]:
    """The test split: all photos of the ``wild_set`` of objects that have other scenes, too.

    Objects are sorted by name and photos by that of their file. (The published kit takes both as the file system lists
    them.)

    Raises:
        DatasetError: there is none, or an ``annotations.json`` is not as published; it is named.
    """
    scenes = sorted(path for path in root.glob(f"*/{SPLIT}") if path.is_dir())
    if not scenes:
        raise DatasetError(
            f"no folder OBJECT/{SPLIT} in {root}; expected {LAYOUT}. Without it: naf-hub eval homography"
        )
    scenes = [path for path in scenes if any(other.is_dir() for other in path.parent.glob(OTHER_SCENES))]
    if not scenes:
        raise DatasetError(
            f"no object in {root} has a folder {OTHER_SCENES} beside {SPLIT}; expected {LAYOUT}"
        )
    found = {scene.parent.name: read_annotations(scene / "annotations.json") for scene in scenes}
    if not any(found.values()):
        raise DatasetError(f"no photo in the annotations below {root}; expected {LAYOUT}")
    return found


def read_annotations(path: Path) -> list[View]:
    """The photos of a scene, sorted by the name of their file.

    Raises:
        DatasetError: unreadable, or a photo's camera is not told as published.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read ({error}); expected {LAYOUT}") from error
    if not isinstance(data, list):
        raise DatasetError(f"{path} holds no JSON list of photos; expected {LAYOUT}")
    views = [_view(path, number, told) for number, told in enumerate(data)]
    return sorted(views, key=lambda view: view.image.name.removeprefix(SHRUNK))


def _view(path: Path, number: int, told: Any) -> View:
    try:
        name, camera = str(told["filename"]), told["camera"]
        quaternion, shift = ([float(value) for value in camera[key]] for key in "qt")
        focal = float(camera["focal_length"])
        height, width = (int(side) for side in told["image_size"])
        if not all(map(math.isfinite, (*quaternion, *shift, focal))):
            raise ValueError("a number of the camera is not finite")
        if (len(quaternion), len(shift)) != (4, 3) or not any(quaternion) or min(focal, height, width) <= 0:
            raise ValueError("no such camera")
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DatasetError(
            f"{path}: photo {number} needs filename, image_size (height, width) and camera with q (w, x, y, z), "
            f"t and focal_length as in {SOURCE} ({error!r})"
        ) from error
    pose = Pose.of(quaternion, [value / MILLIMETRES for value in shift])
    scene, image = path.parent, Path(name).name
    return View(
        scene.parent.name,
        _shrunk_or_whole(scene / "images" / image),
        _shrunk_or_whole((scene / "depth" / image).with_suffix(".png")),
        path,
        (height, width),
        focal,
        pose,
    )


def _shrunk_or_whole(path: Path) -> Path:
    shrunk = path.with_name(SHRUNK + path.name)
    return shrunk if shrunk.is_file() else path


def draw_pairs(
    things: Mapping[str, Sequence[View]], seed: int, stride: int = 1
) -> list[tuple[View, View | None]]:
    """A partner for each photo, drawn among those of its object that turn by at most 120 degrees; then every n-th pair.

    One generator draws for all photos in their order. No photo is its own partner. (In the published kit it may be by
    chance, where rounding makes its angle to itself a little more than 0.)

    Args:
        things: photos by object, see :func:`find_views`.
        seed: of torch's generator; 8 in the protocol.
        stride: every so many pairs are kept, from the first on.

    Returns:
        Source and target; ``None`` for a target where there is none to be had.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs: list[tuple[View, View | None]] = []
    for views in things.values():
        rotations = torch.stack([view.pose.rotation for view in views]) if views else torch.empty(0, 3, 3)
        for view in views:
            turned = angles(view.pose.rotation @ rotations.mT)
            # float32, for of another type torch draws other numbers.
            possible = ((turned > _SAME) & (turned <= LARGEST_ANGLE)).float()
            partner = int(torch.multinomial(possible, 1, generator=generator)) if possible.any() else None
            pairs.append((view, None if partner is None else views[partner]))
    return pairs[::stride]

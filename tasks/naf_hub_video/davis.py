"""Videos with masks in the layout of DAVIS 2017 (Pont-Tuset et al.) at 480p."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from torch import Tensor

from naf_hub.errors import DatasetError
from naf_hub.image_files import has_image_name
from naf_hub.images import read_image, stored_values

FRAMES, MASKS = Path("JPEGImages", "480p"), Path("Annotations", "480p")
NAMES = Path("ImageSets", "2017", "val.txt")
LAYOUT = (
    f"DATA/{FRAMES.as_posix()}/VIDEO/00000.jpg ..., DATA/{MASKS.as_posix()}/VIDEO/00000.png ... (a number an object, 0 "
    f"the background) and, where not all videos are meant, their names in DATA/{NAMES.as_posix()}; "
    "DAVIS 2017 TrainVal at 480p is at https://davischallenge.org/davis2017/code.html"
)
VOID = 255
FEWEST = 3  # the first frame is given and the last is not scored


@dataclasses.dataclass(frozen=True)
class Video:
    """Frames and masks of one video, in order, as many of each."""

    name: str
    frames: tuple[Path, ...]
    masks: tuple[Path, ...]

    def read_frame(self, number: int, size: tuple[int, int]) -> Tensor:
        """(3, H, W), RGB in [0, 1].

        Raises:
            ImageError: it cannot be read; names the file.
            DatasetError: it has not this size (H, W).
        """
        frame = read_image(self.frames[number])
        if frame.shape[1:] != size:
            raise DatasetError(
                f"{self.frames[number]} is {frame.shape[1]}x{frame.shape[2]} pixels, the masks of its video are "
                f"{size[0]}x{size[1]}"
            )
        return frame

    def read_masks(self) -> np.ndarray:
        """(T, H, W) uint8: 0 is background, then the objects from 1 on.

        ``VOID`` is background, as the official evaluation has it. Masks of DAVIS 2016 know nothing but 0 and 255,
        there the one object.

        Raises:
            ImageError: a file cannot be read.
            DatasetError: a file is no mask, differs in size, or the first has no object.
        """
        masks = [_read_mask(path) for path in self.masks]
        for path, mask in zip(self.masks, masks, strict=True):
            if mask.shape != masks[0].shape:
                raise DatasetError(
                    f"{path} is {mask.shape[0]}x{mask.shape[1]} pixels, the first mask of its video "
                    f"{masks[0].shape[0]}x{masks[0].shape[1]}"
                )
        ids = set(np.unique(masks[0]).tolist()) - {0}
        if not ids:
            raise DatasetError(f"{self.masks[0]}: no object in the first frame")
        stack = np.stack(masks)
        stack[stack == VOID] = 1 if ids == {VOID} else 0
        return stack


def find_videos(data: Path, names: Sequence[str] = (), length: int = 0) -> list[Video]:
    """The videos in a folder, also where they lie in ``DAVIS`` in it.

    Args:
        data: the folder, see ``LAYOUT``.
        names: of the videos that are wanted; none means those in ``ImageSets/2017/val.txt``, or all without that file.
        length: take so many frames from the start; 0 for all.

    Raises:
        DatasetError: not the layout that is expected; says what was missing.
    """
    root = data / "DAVIS" if (data / "DAVIS" / FRAMES).is_dir() else data
    for part in (FRAMES, MASKS):
        if not (root / part).is_dir():
            raise DatasetError(f"no folder {root / part}; expected {LAYOUT}")
    wanted = list(dict.fromkeys(names)) or _listed(root)
    if not wanted:
        raise DatasetError(f"no video in {root / FRAMES}; expected {LAYOUT}")
    return [_find_video(root, name, length) for name in wanted]


def _listed(root: Path) -> list[str]:
    listed = root / NAMES
    if not listed.is_file():
        return sorted(path.name for path in (root / FRAMES).iterdir() if path.is_dir())
    try:
        found = list(dict.fromkeys(listed.read_text(encoding="utf-8").split()))
    except UnicodeDecodeError as error:
        raise DatasetError(f"{listed}: no text; it names the videos, one a line") from error
    if not found:
        raise DatasetError(f"{listed} names no video; remove it to use all of them")
    return found


def _find_video(root: Path, name: str, length: int) -> Video:
    folder = root / FRAMES / name
    if not folder.is_dir():
        there = sorted(path.name for path in (root / FRAMES).iterdir() if path.is_dir())
        shown = ", ".join(there[:10]) + (" ..." if len(there) > 10 else "")
        raise DatasetError(f"no video {name!r} in {root / FRAMES}; there are: {shown or 'none'}")
    frames = sorted(path for path in folder.iterdir() if has_image_name(path))
    if len(frames) < FEWEST:
        raise DatasetError(f"{folder} has {len(frames)} frames; at least {FEWEST} are needed")
    stems = {frame.stem for frame in frames}
    for mask in sorted((root / MASKS / name).glob("*.png")):
        if mask.stem not in stems:  # the video would go on as if nothing happened between its neighbours
            raise DatasetError(f"no frame {folder / mask.stem}.jpg of the mask {mask}; expected {LAYOUT}")
    frames = frames[: length or None]
    masks = [root / MASKS / name / f"{frame.stem}.png" for frame in frames]
    for mask in masks:
        if not mask.is_file():
            raise DatasetError(f"no mask {mask}; expected {LAYOUT}")
    return Video(name, tuple(frames), tuple(masks))


def _read_mask(path: Path) -> np.ndarray:
    mode, values = stored_values(path)
    if values.ndim != 2:
        raise DatasetError(
            f"{path} is a picture of mode {mode}; masks are grey or of a palette, a number an object"
        )
    if values.max(initial=0) > VOID or values.min(initial=0) < 0:
        raise DatasetError(f"{path} has values up to {values.max()}; masks have 8 bits")
    return values.astype(np.uint8)

"""Frames of a video with the masks that were carried to them, a strip for each upsampler."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from naf_hub.atomic import atomic_file
from naf_hub.picture import photo, side_by_side

from .davis import Video
from .kept_masks import palette
from .mask_scores import official_boundary

SHOWN = 5
WIDTH = 320
OURS = ("Software", "naf-hub eval video")


def check_place(path: Path) -> None:
    """Require that a picture may be written there.

    Raises:
        FileExistsError: a file lies there that is no picture of ours.
    """
    if not path.exists():
        return
    try:
        with Image.open(path) as old:
            ours = old.info.get(OURS[0]) == OURS[1]
    except OSError:
        ours = False
    if not ours:
        raise FileExistsError(f"{path} exists and is no picture of masks: give --picture another folder")


def shown_frames(count: int) -> list[int]:
    """Numbers of the frames that are shown: the first, and some of those that are scored, evenly spread."""
    return sorted({0, *np.linspace(1, count - 2, SHOWN - 1).round().astype(int).tolist()})


def draw_strips(video: Video, strips: Mapping[str, np.ndarray], path: Path) -> None:
    """Write a PNG with a row for each strip.

    Args:
        video: its frames.
        strips: by caption, masks (n, H, W) of :func:`shown_frames`.
        path: of the picture.
    """
    numbers = shown_frames(len(video.frames))
    size = next(iter(strips.values())).shape[1:]
    frames = [photo(video.read_frame(number, (size[0], size[1]))) for number in numbers]
    height = max(1, round(WIDTH * size[0] / size[1]))
    rows: list[Image.Image] = []
    for caption, masks in strips.items():
        captions = [caption, *(f"frame {video.frames[number].stem}" for number in numbers[1:])]
        drawn = [
            overlaid(frame, mask).resize((WIDTH, height), Image.Resampling.LANCZOS)
            for frame, mask in zip(frames, masks, strict=True)
        ]
        rows.append(side_by_side(list(zip(captions, drawn, strict=True)), (height, WIDTH)))
    sheet = Image.new("RGB", (rows[0].width, sum(row.height for row in rows)), "white")
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * row.height))
    notes = PngImagePlugin.PngInfo()
    notes.add_text(*OURS)
    check_place(path)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG", pnginfo=notes)


def overlaid(frame: Image.Image, mask: np.ndarray) -> Image.Image:
    """The frame with each object tinted in its colour of the palette, twice as bright, and a white line around it."""
    pixels = np.asarray(frame).astype(np.float32)
    tint = np.minimum(2 * np.array(palette(), dtype=np.float32), 255).reshape(-1, 3)[mask]
    found = np.where((mask > 0)[..., None], 0.45 * pixels + 0.55 * tint, pixels)
    line = official_boundary(mask)
    line |= np.roll(line, 1, 0) | np.roll(line, 1, 1)  # two pixels, to be seen when shrunk
    found[line] = 255
    return Image.fromarray(found.round().astype(np.uint8))

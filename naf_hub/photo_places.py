"""Places in a photo as users write them, and where they are in the photo as resized."""

from __future__ import annotations

import re


def parse_pixels(text: str, form: str) -> tuple[int, ...]:
    """Whole numbers of pixels as ``form`` (``"x,y"``) asks for them.

    Raises:
        ValueError: other numbers, or not so many.
    """
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != len(form.split(",")) or not all(re.fullmatch(r"-?\d+", part) for part in parts):
        raise ValueError(f"{text!r} is not {form}, in whole pixels of the photo")
    return tuple(map(int, parts))


def point_in(at: tuple[int, int], photo: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    """Row and column, in a photo brought to ``size`` (H, W), of the point ``at`` = (x, y) of the photo (H, W).

    Raises:
        ValueError: the point lies outside the photo.
    """
    x, y = at
    if not (0 <= x < photo[1] and 0 <= y < photo[0]):
        raise ValueError(
            f"{x},{y} lies outside the photo, whose x goes from 0 to {photo[1] - 1} and y from 0 to {photo[0] - 1}"
        )
    return tuple(int((n + 0.5) * new / old) for n, new, old in zip((y, x), size, photo, strict=True))  # pyright: ignore


def box_in(
    box: tuple[int, int, int, int], photo: tuple[int, int], size: tuple[int, int]
) -> tuple[slice, slice]:
    """Rows and columns, in a photo brought to ``size`` (H, W), of ``box`` = (x, y, w, h) of the photo (H, W).

    Raises:
        ValueError: the box is empty or reaches out of the photo.
    """
    x, y, w, h = box
    if not (x >= 0 and y >= 0 and w > 0 and h > 0 and x + w <= photo[1] and y + h <= photo[0]):
        raise ValueError(
            f"{x},{y},{w},{h} (left, top, width, height) does not lie in the photo of {photo[1]} x {photo[0]} pixels"
        )
    found = []
    for start, length, new, old in ((y, h, size[0], photo[0]), (x, w, size[1], photo[1])):
        first = min(round(start * new / old), new - 1)
        found.append(slice(first, max(first + 1, round((start + length) * new / old))))
    return found[0], found[1]

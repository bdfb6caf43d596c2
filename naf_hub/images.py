"""Image files in and out: every common kind of picture becomes RGB floats in [0, 1]."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = frozenset(
    {".bmp", ".gif", ".jpeg", ".jpg", ".jp2", ".png", ".ppm", ".pgm", ".tif", ".tiff", ".webp"}
)


def to_rgb(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1] of any Pillow image.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey keeps its precision, and
    palette, CMYK, LAB and grey pictures are converted.

    Raises:
        ImageError: a mode without a defined range (32-bit integer or float outside [0, 1]).
    """
    picture = ImageOps.exif_transpose(picture)
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.float32) / 65535.0
        return np.repeat(grey[..., None], 3, axis=-1)
    if picture.mode in ("I", "F"):
        values = np.asarray(picture).astype(np.float32)
        # Pillow opens 16-bit PNGs as 32-bit "I" in some versions; their range tells.
        if picture.mode == "I" and values.size and values.min() >= 0 and values.max() <= 65535:
            values = values / 65535.0
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise ImageError(
                f"{picture.mode!r} picture with values outside [0, 1]; convert it to 8 or 16 bits"
            )
        return np.repeat(values[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(picture.convert("RGB")).astype(np.float32) / 255.0


def to_tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) float32 tensor in [0, 1] of a Pillow image."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(to_rgb(picture).transpose(2, 0, 1)))


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open and fully decode an image file.

    Raises:
        FileNotFoundError: no such file.
        ImageError: not an image, truncated, or absurdly large.
    """
    if not Path(path).exists():
        raise FileNotFoundError(f"no such image: {path}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = Image.open(path)
            picture.load()
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: not an image file, or a damaged one") from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"{path}: more pixels than Pillow considers safe; downscale it first") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise ImageError(f"{path}: cannot be read as an image ({error})") from error
    return picture


def read_image(path: str | os.PathLike[str]) -> Tensor:
    """(3, H, W) float32 tensor in [0, 1], RGB, of an image file; see :func:`to_rgb`.

    Raises:
        FileNotFoundError, ImageError: see :func:`open_image`.
    """
    picture = open_image(path)
    try:
        return to_tensor(picture)
    except ImageError as error:
        raise ImageError(f"{path}: {error}") from error


def find_images(paths: Iterable[str | os.PathLike[str]]) -> list[Path]:
    """Image files from files, folders (searched recursively) and glob patterns, in order, without doubles.

    A file named outright is kept whatever its suffix; folders and patterns yield known image suffixes.

    Raises:
        FileNotFoundError: a path matches nothing.
    """
    found: dict[Path, None] = {}
    for entry in paths:
        path = Path(entry)
        if path.is_dir():
            candidates: list[Path] = [p for p in sorted(path.rglob("*")) if p.is_file()]
        elif path.exists():
            found.setdefault(path)
            continue
        else:
            candidates = [Path(p) for p in sorted(glob.glob(str(entry), recursive=True)) if Path(p).is_file()]
        images = [p for p in candidates if p.suffix.lower() in SUFFIXES]
        if not images:
            raise FileNotFoundError(f"no image at {entry}")
        found.update(dict.fromkeys(images))
    return list(found)


def as_batch(image: Any) -> Tensor:
    """(B, 3, H, W) float tensor from a tensor (batched or not), a Pillow image, or a path.

    Raises:
        TypeError: anything else.
    """
    import torch

    if isinstance(image, torch.Tensor):
        return image[None] if image.ndim == 3 else image
    if isinstance(image, Image.Image):
        return to_tensor(image)[None]
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)[None]
    raise TypeError(f"image must be a tensor, a PIL image or a path, got {type(image).__name__}")

"""Image files in and out: every common kind of picture becomes RGB floats in [0, 1]."""

from __future__ import annotations

import functools
import glob
import io
import logging
import os
import re
import threading
import warnings
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger("naf_hub")

# Files of these formats are no photos, or Pillow only knows that they exist.
NO_PHOTOS = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
# Photos that need a plugin of Pillow's, or a raw converter: left out of a search, but not in silence.
UNREADABLE = frozenset(
    {".arw", ".cr2", ".cr3", ".dng", ".heic", ".heif", ".jxl", ".nef", ".orf", ".raf", ".rw2"}
)
MAX_PIXELS = 300_000_000
MAX_PIXELS_SWITCH = "NAF_HUB_MAX_PIXELS"
URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
# Pillow's own limit is a global; it is lifted while a file is opened, one thread at a time.
_opening = threading.Lock()


@functools.cache
def image_suffixes() -> frozenset[str]:
    """Endings, lower case, of the photo formats that the installed Pillow (and its plugins) can read."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, name in known if name in Image.OPEN and name not in NO_PHOTOS)


def has_image_name(path: Path) -> bool:
    """Whether a file's ending is that of a photo; hidden files (macOS's ``._photo.jpg`` among them) are none."""
    return path.suffix.lower() in image_suffixes() and not path.name.startswith(".")


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
        return np.repeat(_over_white(grey, picture)[..., None], 3, axis=-1)
    if picture.mode in ("I", "F"):
        values = np.asarray(picture).astype(np.float32)
        # Pillow opens 16-bit PNGs as 32-bit "I" in some versions; their range tells.
        if picture.mode == "I" and values.size and values.min() >= 0 and values.max() <= 65535:
            values = _over_white(values / 65535.0, picture)
        if values.size and not (values.min() >= 0 and values.max() <= 1):
            raise ImageError(
                f"{picture.mode!r} picture with values outside [0, 1]; convert it to 8 or 16 bits"
            )
        return np.repeat(values[..., None], 3, axis=-1)
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    return np.asarray(picture.convert("RGB")).astype(np.float32) / 255.0


def _over_white(grey: np.ndarray, picture: Image.Image) -> np.ndarray:
    """16-bit grey in [0, 1], white where it has the one value that a PNG may declare transparent."""
    transparent = picture.info.get("transparency")
    if not isinstance(transparent, int):
        return grey
    return np.where(np.round(grey * 65535).astype(np.int64) == transparent, np.float32(1), grey)


def to_tensor(picture: Image.Image) -> Tensor:
    """(3, H, W) float32 tensor in [0, 1] of a Pillow image."""
    import torch

    return torch.from_numpy(np.ascontiguousarray(to_rgb(picture).transpose(2, 0, 1)))


def max_pixels() -> int:
    """Largest picture that is opened, in pixels: 300 million, or what ``NAF_HUB_MAX_PIXELS`` says.

    Raises:
        ImageError: that variable is no positive number.
    """
    text = os.environ.get(MAX_PIXELS_SWITCH, "")
    if not text:
        return MAX_PIXELS
    if not text.isdigit() or int(text) < 1:
        raise ImageError(f"{MAX_PIXELS_SWITCH}={text!r} is no positive number of pixels")
    return int(text)


def open_image(path: str | os.PathLike[str]) -> Image.Image:
    """Open and fully decode an image file.

    Raises:
        FileNotFoundError: no such file.
        ImageError: not an image, truncated, larger than :func:`max_pixels`, or no regular file.
    """
    try:
        if not Path(path).exists():
            raise FileNotFoundError(f"no such image: {path}")
        if not Path(path).is_file():  # a pipe would be waited for without end
            raise ImageError(f"{path}: not a regular file, but a folder, pipe or device")
        data = Path(path).read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, (FileNotFoundError, ImageError)):
            raise
        raise ImageError(f"{path}: cannot be read ({error})") from error
    return decode_image(data, str(path))


def decode_image(data: bytes, name: str) -> Image.Image:
    """Fully decode the content of an image file.

    Args:
        data: the file's bytes.
        name: what messages call it.

    Raises:
        ImageError: not an image, truncated, or larger than :func:`max_pixels`.
    """
    limit = max_pixels()
    try:
        with _opening, warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                picture = Image.open(io.BytesIO(data))
            finally:
                Image.MAX_IMAGE_PIXELS = before
        width, height = picture.size
        if width * height > limit:
            raise ImageError(
                f"{name}: {width}x{height} is more than {limit:,} pixels; downscale it, or set "
                f"{MAX_PIXELS_SWITCH}={width * height}"
            )
        picture.load()
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image file, or a damaged one") from error
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError(f"{name}: does not fit into memory; downscale it first") from error
    except Exception as error:  # decoders of damaged files raise errors of every kind
        raise ImageError(f"{name}: cannot be read as an image ({' '.join(str(error).split())})") from error
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


def find_images(
    paths: Iterable[str | os.PathLike[str]], *, without: Iterable[str | os.PathLike[str]] = ()
) -> list[Path]:
    """Image files from files, folders (searched recursively) and glob patterns, in order, without doubles.

    A file named outright is kept whatever its name; folders and patterns yield files with an image's ending that
    are not hidden. Linked folders are followed, each folder once. Photos that Pillow cannot read are told.

    Args:
        paths: where to look.
        without: folders to leave out of the search, such as that of the results.

    Raises:
        FileNotFoundError: a path matches nothing.
        ImageError: an address of the web in place of a path.
    """
    found: dict[Path, None] = {}
    left_out = {Path(folder).resolve() for folder in without}
    for entry in paths:
        if isinstance(entry, str) and URL.match(entry):
            raise ImageError(f"{entry}: addresses are not fetched; download the picture and give its path")
        path = Path(entry)
        if path.is_dir():
            candidates = sorted(files_below(path, left_out))
        elif path.exists():
            found.setdefault(path)
            continue
        else:
            candidates = [p for p in _matching(str(entry)) if p.is_file()]
        images = [p for p in candidates if has_image_name(p)]
        _tell_unreadable(candidates, entry)
        if not images:
            raise FileNotFoundError(f"no image at {entry}")
        found.update(dict.fromkeys(images))
    return list(found)


def files_below(folder: Path, left_out: Collection[Path] = ()) -> Iterator[Path]:
    """Files in a folder and those below it, hidden folders and ``left_out`` excepted, each real folder once."""
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(root)
        if real in seen or (Path(real) in left_out and Path(root) != folder):
            folders.clear()
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (path for name in files if (path := Path(root, name)).is_file())


def _matching(pattern: str) -> list[Path]:
    """What a glob pattern matches, hidden files excepted; folders that exist as written are no patterns."""
    parts = Path(pattern).parts
    real = 0
    while real < len(parts) and Path(*parts[: real + 1]).exists():
        real += 1
    escaped = str(Path(*(glob.escape(part) for part in parts[:real]), *parts[real:]))
    return [Path(p) for p in sorted(glob.glob(escaped, recursive=True))]


def _tell_unreadable(candidates: Iterable[Path], entry: object) -> None:
    names = [p.suffix.lower() for p in candidates if p.suffix.lower() in UNREADABLE - image_suffixes()]
    if names:
        log.warning(
            "%s: %d photos left out (%s): Pillow needs a plugin for them (for .heic: pip install pillow-heif), "
            "or convert them",
            entry, len(names), ", ".join(sorted(set(names))),
        )  # fmt: skip


def as_batch(image: Any) -> Tensor:
    """(B, 3, H, W) float tensor in [0, 1] of anything that holds one image or several of one size.

    Args:
        image: a tensor (B, 3, H, W) or (3, H, W), float or 8 bits; an array (H, W), (H, W, 1), (H, W, 3),
            (H, W, 4) or (B, H, W, 3), float in [0, 1], 8 or 16 bits; a Pillow image; the path or the bytes of
            an image file; or a list of these.

    Raises:
        TypeError: anything else, such as an address of the web.
        ValueError: images of a list differ in size.
        ImageError: a file cannot be read.
    """
    import torch

    if isinstance(image, torch.Tensor):
        batch = image[None] if image.ndim == 3 else image
        return batch.float() / 255 if batch.dtype == torch.uint8 else batch
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Image.Image):
        return to_tensor(image)[None]
    if isinstance(image, (bytes, bytearray)):
        return to_tensor(decode_image(bytes(image), "image"))[None]
    if isinstance(image, str) and URL.match(image):
        raise TypeError(
            f"{image}: addresses are not fetched; download the picture and pass its path or bytes"
        )
    if isinstance(image, (str, os.PathLike)):
        return read_image(image)[None]
    if isinstance(image, (list, tuple)) and image:
        parts = [as_batch(one) for one in image]
        sizes = sorted({f"{part.shape[-2]}x{part.shape[-1]}" for part in parts})
        if len(sizes) > 1:
            raise ValueError(
                f"images of a batch must have one size, got {', '.join(sizes)}; pass them one by one"
            )
        return torch.cat(parts)
    raise TypeError(
        f"image must be a tensor, a PIL image or a path (or an array, bytes, or a list), got {type(image).__name__}"
    )


def _from_array(array: np.ndarray) -> Tensor:
    """See :func:`as_batch`; arrays have their channels last."""
    import torch

    scale = {"uint8": 255.0, "uint16": 65535.0}.get(array.dtype.name, 1.0)
    if array.dtype.kind not in "fu" or (array.dtype.kind == "u" and scale == 1.0):
        raise TypeError(f"image array must be float in [0, 1], uint8 or uint16, got {array.dtype}")
    batch = array[None] if array.ndim in (2, 3) else array
    batch = batch[..., None] if array.ndim == 2 else batch
    if batch.ndim != 4 or batch.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"image array must be (H, W), (H, W, 1|3|4) or (B, H, W, 3), got {array.shape}; for channels first "
            "pass a tensor: torch.from_numpy(array)"
        )
    values = batch.astype(np.float64 if array.dtype == np.float64 else np.float32) / scale
    if values.shape[-1] == 4:
        values = values[..., :3] * values[..., 3:] + (1 - values[..., 3:])  # over white, as pictures are
    values = np.repeat(values, 3, axis=-1) if values.shape[-1] == 1 else values
    return torch.from_numpy(np.ascontiguousarray(values.transpose(0, 3, 1, 2)))

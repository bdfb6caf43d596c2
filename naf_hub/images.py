"""Pictures to tensors: every common kind of picture becomes RGB floats in [0, 1]."""

from __future__ import annotations

import io
import os
import re
import threading
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from .errors import ImageError, NotEnoughMemoryError
from .memory import require_memory

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 300_000_000
MAX_PIXELS_SWITCH = "NAF_HUB_MAX_PIXELS"
URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
ORIENTATION, PHOTOMETRIC = 0x0112, 262  # tags
WHITE_IS_ZERO = 0
# How far outside [0, 1] resampling may have taken a float picture; viewers clip it.
OVERSHOOT = 0.05
# Grey of 2 and 4 bits is stretched to 8 by Pillow: the step from one value to the next.
STEPS = {"L;2": 85, "L;4": 17}
# Of 16-bit colours Pillow keeps the upper bytes, which PNGs store first; told that they come last, the lower ones.
LOWER = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
# Bytes a pixel while a picture is decoded and made a tensor; small pictures are not worth asking for.
DECODING = 32
LARGE = 10_000_000
# Pillow's own limit is a global; it is lifted while a file is opened, one thread at a time.
_opening = threading.Lock()


def to_rgb(picture: Image.Image) -> np.ndarray:
    """(H, W, 3) float32 in [0, 1] of any Pillow image, as a viewer shows it, colour profiles left aside.

    EXIF orientation is applied, transparency is laid over white, 16-bit grey keeps its precision, and
    palette, CMYK, LAB and grey pictures are converted.

    Raises:
        ImageError: values without a defined range (integers beyond 16 bits, floats outside [0, 1]).
    """
    picture = upright(picture)
    if picture.mode.startswith("I;16"):
        grey = np.asarray(picture).astype(np.float32)
        grey /= 65535.0
        return np.repeat(_over_white(grey, picture)[..., None], 3, axis=-1)
    if picture.mode in ("I", "F"):
        return np.repeat(_wide_grey(picture)[..., None], 3, axis=-1)
    if picture.mode == "La":
        picture = picture.convert("LA")
    if picture.has_transparency_data:
        rgba = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
    values = np.asarray(picture.convert("RGB")).astype(np.float32)
    values /= 255.0
    return values


def upright(picture: Image.Image) -> Image.Image:
    """A picture turned as its EXIF orientation says; damaged EXIF data says nothing."""
    try:
        turned = picture.getexif().get(ORIENTATION, 1) != 1
        return ImageOps.exif_transpose(picture) if turned else picture
    except Exception:  # readers of damaged metadata raise errors of every kind
        return picture


def _wide_grey(picture: Image.Image) -> np.ndarray:
    """(H, W) float32 in [0, 1] of 32-bit integers, which hold 16 bits, or of floats in [0, 1]."""
    values = np.asarray(picture).astype(np.float32)
    if picture.mode == "I":  # Pillow opens 16-bit PNGs as 32-bit "I" in some versions
        if values.size and not (values.min() >= 0 and values.max() <= 65535):
            raise ImageError("32-bit integers beyond 0 to 65535 have no agreed range; convert it to 16 bits")
        return _over_white(values / 65535.0, picture)
    if values.size and not (values.min() >= -OVERSHOOT and values.max() <= 1 + OVERSHOOT):  # NaN fails, too
        raise ImageError("floats with values outside [0, 1]; scale them, or convert it to 8 or 16 bits")
    return values.clip(0, 1)


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


def open_image(path: str | os.PathLike[str], *, lower: bool = False) -> Image.Image:
    """Open and fully decode an image file.

    Args:
        path: of the file.
        lower: of PNGs with 16-bit colours take the lower 8 bits, where else the upper ones are given.

    Raises:
        FileNotFoundError: no such file.
        ImageError: not an image, truncated, larger than :func:`max_pixels`, or no regular file.
    """
    return _decode(_read(path), str(path), lower)[0]


def _read(path: str | os.PathLike[str]) -> bytes:
    try:
        if not Path(path).exists():
            raise FileNotFoundError(f"no such image: {path}")
        if not Path(path).is_file():  # a pipe would be waited for without end
            raise ImageError(f"{path}: not a regular file, but a folder, pipe or device")
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, (FileNotFoundError, ImageError)):
            raise
        raise ImageError(f"{path}: cannot be read ({error})") from error


def decode_image(data: bytes, name: str) -> Image.Image:
    """Fully decode the content of an image file.

    Args:
        data: the file's bytes.
        name: what messages call it.

    Raises:
        ImageError: not an image, truncated, or larger than :func:`max_pixels`.
        NotEnoughMemoryError: it will not fit.
    """
    return _decode(data, name)[0]


def _decode(data: bytes, name: str, lower: bool = False) -> tuple[Image.Image, int]:
    """See :func:`decode_image`; and the step that Pillow put between one value of grey and the next."""
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
        if width * height > LARGE:
            require_memory(
                width * height * DECODING, f"{name}: {width}x{height} pixels", "downscale it first"
            )
        raw = _raw_mode(picture)
        if lower and raw in LOWER:
            picture.tile = [(*tile[:3], LOWER[raw]) for tile in picture.tile]  # pyright: ignore
        picture.load()
        _mend(picture, raw)
    except UnidentifiedImageError as error:
        raise ImageError(f"{name}: not an image file, or a damaged one") from error
    except (ImageError, NotEnoughMemoryError):
        raise
    except MemoryError as error:
        raise ImageError(f"{name}: does not fit into memory; downscale it first") from error
    except Exception as error:  # decoders of damaged files raise errors of every kind
        raise ImageError(f"{name}: cannot be read as an image ({' '.join(str(error).split())})") from error
    return picture, STEPS.get(raw, 1)


def _raw_mode(picture: Image.Image) -> str:
    """How a PNG or TIFF stores its pixels, in Pillow's words (``"L;4"``); empty for other formats."""
    tiles: list[Any] = list(getattr(picture, "tile", []) if picture.format in ("PNG", "TIFF") else [])
    arguments = tiles[0][3] if tiles else ""
    return str(arguments[0] if isinstance(arguments, tuple) else arguments)


def _mend(picture: Image.Image, raw: str) -> None:
    """Set right what Pillow leaves as the file has it."""
    transparent = picture.info.get("transparency")
    if raw in STEPS and isinstance(transparent, int):
        picture.info["transparency"] = transparent * STEPS[raw]
    elif raw == "RGB;16B" and isinstance(transparent, tuple):  # of the pixels the high bytes are kept
        picture.info["transparency"] = tuple(value >> 8 for value in transparent)
    elif picture.mode.startswith("I;16") and getattr(picture, "tag_v2", {}).get(PHOTOMETRIC) == WHITE_IS_ZERO:
        picture.frombytes(np.invert(np.asarray(picture)).tobytes())


def stored_values(path: str | os.PathLike[str]) -> tuple[str, np.ndarray]:
    """Pillow's mode of an image file, and its pixels (H, W, ...) as they are stored: class ids, say.

    Indices of a palette and not its colours; grey of any depth as it is, not stretched to 8 bits; turned like
    the photo as :func:`read_image` does.

    Raises:
        FileNotFoundError, ImageError: see :func:`open_image`.
    """
    picture, step = _decode(_read(path), str(path))
    values = np.array(upright(picture))
    return picture.mode, values // step if step > 1 else values


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
    if isinstance(image, (list, tuple)):
        raise ValueError(f"the {type(image).__name__} of images is empty; give at least one")
    raise TypeError(
        f"image must be a tensor, a PIL image or a path (or an array, bytes, or a list), got {type(image).__name__}"
    )


def as_batch_for(image: Any, like: Tensor | None) -> Tensor:
    """:func:`as_batch`, and what was no tensor yet on the device of ``like``; float tensors pass as they are."""
    import torch

    if isinstance(image, torch.Tensor) and image.dtype != torch.uint8:
        return image
    batch = as_batch(image)
    return batch if isinstance(image, torch.Tensor) or like is None else batch.to(like.device)


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

"""One photo restored, and its results on disk."""

from __future__ import annotations

import dataclasses
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ..atomic import atomic_file
from ..contenders import name_model
from ..deep_png import has_deep_colours, write_deep_png
from ..errors import MissingExtraError
from ..images import open_image, to_rgb, upright
from ..made_with import BEFORE_AFTER, KEY, RESTORED, SHOWS, describe_photo, record
from ..photo_batch import PictureNames

if TYPE_CHECKING:
    from torch import Tensor

    from ..interfaces import Restorer

# Of the (H, W, 3) values of an image, the standard deviation of its noise.
Estimate = Callable[[np.ndarray], float]
COMPARISON = ".compare.png"  # no longer than the longest ending that names leave room for


@dataclasses.dataclass(frozen=True)
class RestoredSettings:
    """What ``denoise`` writes for a photo.

    Attributes:
        compare: whether to write the photo and the restored one side by side, too.
        model: the restorer, see :func:`~naf_hub.made_with.describe_model`.
        names: of the pictures.
    """

    compare: bool
    model: Mapping[str, Any]
    names: PictureNames = dataclasses.field(default_factory=PictureNames)

    def of(self, target: Path) -> dict[str, Any]:
        """Settings on which a file depends."""
        return {**self.model, SHOWS: BEFORE_AFTER if target.name.endswith(COMPARISON) else RESTORED}

    def outputs(self, stem: Path) -> list[Path]:
        """What is written for one photo."""
        endings = [".png"] + [COMPARISON] * self.compare
        # That of c.compare.png would lie where the comparison of c.png does.
        named = stem if stem.name.endswith(COMPARISON) else self.names.shortened(stem)
        return [named.with_name(named.name + ending) for ending in endings]


@dataclasses.dataclass(frozen=True)
class Layers:
    """What a photo holds.

    Attributes:
        colour: (H, W, 3) float32 in [0, 1]; of a grey photo three times the same.
        alpha: (H, W) float32 in [0, 1]; ``None`` of a photo without transparency.
        grey: whether it has no colours.
        deep: whether it has 16 bits and not 8.
        profile: ICC profile of the colours; ``None`` where the file has none, or one of another kind of colours.
    """

    colour: np.ndarray
    alpha: np.ndarray | None
    grey: bool
    deep: bool
    profile: bytes | None

    @classmethod
    def read(cls, path: Path) -> Layers:
        """Of a file, turned as its EXIF orientation says.

        Raises:
            FileNotFoundError, ImageError: see :func:`naf_hub.images.open_image`.
        """
        picture = upright(open_image(path))
        deep = picture.mode in ("I", "F") or picture.mode.startswith("I;16")
        grey = deep or picture.mode in ("1", "L", "LA", "La")
        profile = picture.info.get("icc_profile") if grey or picture.mode in ("RGB", "RGBA", "P") else None
        if has_deep_colours(path) and "transparency" not in picture.info:
            values = np.asarray(picture) * np.float32(256) + np.asarray(upright(open_image(path, lower=True)))
            values /= np.float32(65535)
            alpha = values[..., 3] if values.shape[-1] == 4 else None
            return cls(values[..., :3], alpha, grey=False, deep=True, profile=profile)
        alpha = None
        if picture.has_transparency_data and not deep:
            rgba = (picture.convert("LA") if picture.mode == "La" else picture).convert("RGBA")
            alpha, picture = np.asarray(rgba.getchannel("A")) / np.float32(255), rgba.convert("RGB")
        return cls(to_rgb(picture), alpha, grey, deep, profile)

    def write(self, target: Path, colour: np.ndarray, made: str) -> None:
        """Write a PNG of the same kind with other colours (H, W, 3), which are clipped to [0, 1]."""
        colour = colour.mean(-1, keepdims=True) if self.grey else colour
        values = colour if self.alpha is None else np.concatenate([colour, self.alpha[..., None]], axis=-1)
        top, dtype = (65535, np.uint16) if self.deep else (255, np.uint8)
        values = (values.clip(0, 1) * top).round().astype(dtype)
        if self.deep and not self.grey:
            with atomic_file(target) as temporary:
                write_deep_png(temporary, values, {KEY: made}, self.profile)
        else:
            _save(
                Image.fromarray(values.squeeze(-1) if values.shape[-1] == 1 else values),
                target,
                made,
                self.profile,
            )


def noise_estimator() -> Estimate:
    """Scikit-image's estimate of Gaussian noise: the median of the finest wavelet coefficients, mean over channels.

    Raises:
        MissingExtraError: scikit-image or PyWavelets is not installed.
    """
    try:
        import pywt  # noqa: F401  # pyright: ignore[reportMissingImports]
        from skimage.restoration import estimate_sigma
    except ImportError as error:
        raise MissingExtraError("--sigma auto needs pip install 'naf-hub[eval]'") from error

    def estimate(colour: np.ndarray) -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "image is size 1 on the last axis")  # images one pixel wide
            return float(estimate_sigma(colour, channel_axis=-1, average_sigmas=True))

    return estimate


def restore_file(
    model: Restorer, source: Path, targets: Collection[Path], settings: RestoredSettings, place: Path,
    estimate: Estimate | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Restore one image file and write ``targets``, some or all of :meth:`RestoredSettings.outputs`.

    Args:
        model: the restorer.
        source: the photo.
        targets: files to write.
        settings: of the results.
        place: what the results call the photo.
        estimate: of the noise, where it is asked for.

    Returns:
        What was done: files, size, seconds, and the estimated noise ``sigma`` of the photo and of the result.

    Raises:
        ImageError: the image cannot be read.
    """
    import torch

    layers = Layers.read(source)
    made_of = describe_photo(source, place)
    image = torch.from_numpy(np.ascontiguousarray(layers.colour.transpose(2, 0, 1)))
    device = next((t.device for t in (*model.parameters(), *model.buffers())), image.device)
    start = time.perf_counter()
    with torch.no_grad():
        restored = model(image[None].to(device))[0].float().cpu()
    seconds = time.perf_counter() - start
    colour = restored.permute(1, 2, 0).numpy()
    for target in targets:
        asked = settings.of(target)
        made = record(asked, made_of)
        if asked[SHOWS] == RESTORED:
            layers.write(target, colour, made)
        else:
            _save(_compare(image, restored, model), target, made)
    result: dict[str, Any] = {
        "image": str(source),
        "image_size": list(image.shape[1:]),
        "seconds": round(seconds, 3),
        "files": [str(target) for target in targets],
    }
    if estimate is not None:
        result["sigma"] = {"photo": estimate(layers.colour), "restored": estimate(colour.clip(0, 1))}
    return result


def _compare(image: Tensor, restored: Tensor, model: Restorer) -> Image.Image:
    from ..picture import photo, side_by_side

    panels = [("photo", photo(image)), (name_model(model), photo(restored))]
    return side_by_side(panels, (image.shape[-2], image.shape[-1]))


def _save(picture: Image.Image, target: Path, made: str, profile: bytes | None = None) -> None:
    texts = PngInfo()
    texts.add_text(KEY, made)
    with atomic_file(target) as temporary:
        picture.save(temporary, pnginfo=texts, icc_profile=profile)

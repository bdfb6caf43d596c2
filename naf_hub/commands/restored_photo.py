"""One photo restored, and its results on disk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from ..contenders import name_model
from ..errors import MissingExtraError
from ..images import open_image, to_rgb, upright
from ..made_with import BEFORE_AFTER, KEY, RESTORED, SHOWS, describe_photo, record

if TYPE_CHECKING:
    from torch import Tensor

    from ..interfaces import Restorer

# Of the (H, W, 3) values of an image, the standard deviation of its noise.
Estimate = Callable[[np.ndarray], float]
COMPARISON = ".before-after.png"


@dataclasses.dataclass(frozen=True)
class RestoredSettings:
    """What ``denoise`` writes for a photo.

    Attributes:
        compare: whether to write the photo and the restored one side by side, too.
        model: the restorer, see :func:`~naf_hub.made_with.describe_model`.
    """

    compare: bool
    model: Mapping[str, Any]

    def of(self, target: Path) -> dict[str, Any]:
        """Settings on which a file depends."""
        return {**self.model, SHOWS: BEFORE_AFTER if target.name.endswith(COMPARISON) else RESTORED}

    def outputs(self, stem: Path) -> list[Path]:
        """What is written for one photo."""
        endings = [".png"] + [COMPARISON] * self.compare
        return [stem.with_name(stem.name + ending) for ending in endings]


@dataclasses.dataclass(frozen=True)
class Layers:
    """What a photo holds.

    Attributes:
        colour: (H, W, 3) float32 in [0, 1]; of a grey photo three times the same.
        alpha: (H, W), 8 bits; ``None`` of a photo without transparency.
        grey: whether it has no colours.
        deep: whether its grey has 16 bits.
    """

    colour: np.ndarray
    alpha: np.ndarray | None
    grey: bool
    deep: bool

    @classmethod
    def read(cls, path: Path) -> Layers:
        """Of a file, turned as its EXIF orientation says.

        Raises:
            FileNotFoundError, ImageError: see :func:`naf_hub.images.open_image`.
        """
        picture = upright(open_image(path))
        deep = picture.mode in ("I", "F") or picture.mode.startswith("I;16")
        grey = deep or picture.mode in ("1", "L", "LA", "La")
        alpha = None
        if picture.has_transparency_data and not deep:
            straight = picture.convert("LA") if picture.mode == "La" else picture
            rgba = straight.convert("RGBA")
            alpha, picture = np.asarray(rgba.getchannel("A")), rgba.convert("RGB")
        return cls(to_rgb(picture), alpha, grey, deep)

    def picture(self, colour: np.ndarray) -> Image.Image:
        """A picture of the same kind with other colours (H, W, 3), clipped to [0, 1]."""
        values = colour.clip(0, 1)
        values = values.mean(-1) if self.grey else values
        if self.deep:
            return Image.fromarray((values * 65535).round().astype(np.uint16))
        values = (values * 255).round().astype(np.uint8)
        return Image.fromarray(values if self.alpha is None else np.dstack([values, self.alpha]))


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
    return lambda colour: float(estimate_sigma(colour, channel_axis=-1, average_sigmas=True))


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
        picture = layers.picture(colour) if asked[SHOWS] == RESTORED else _compare(image, restored, model)
        _write(target, picture, record(asked, made_of))
    result = {
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


def _write(target: Path, picture: Image.Image, made: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    from ..atomic import atomic_file

    texts = PngInfo()
    texts.add_text(KEY, made)
    with atomic_file(target) as temporary:
        picture.save(temporary, pnginfo=texts)

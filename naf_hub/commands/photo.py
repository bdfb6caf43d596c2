"""One photo upsampled, and its results on disk."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contenders import name_model
from ..image_sizes import ImageSize, describe_image_size, is_bounded, resized
from ..made_with import KEY, describe_photo, record, sidecar

if TYPE_CHECKING:
    from torch import Tensor

    from ..pipeline import FeaturePipeline


@dataclasses.dataclass(frozen=True)
class Settings:
    """What ``upsample`` writes and how.

    Attributes:
        size: of the photos, see :func:`~naf_hub.image_sizes.fit_size`.
        format: ``"safetensors"``, ``"npy"`` or ``"none"``.
        dtype: ``"float16"`` or ``"float32"`` of the saved features.
        picture: whether to write the side-by-side picture.
        models: of upsampler and backbone, see :func:`~naf_hub.made_with.describe_model`.
    """

    size: ImageSize = 448
    format: str = "safetensors"
    dtype: str = "float16"
    picture: bool = True
    models: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def of(self, target: Path) -> dict[str, Any]:
        """Settings on which a file depends; the picture does not on the precision of the saved features."""
        saved = {} if target.suffix == ".png" else {"dtype": self.dtype}
        return {**self.models, "size": describe_image_size(self.size), **saved}

    def outputs(self, stem: Path) -> list[Path]:
        """What is written for one photo."""
        endings = [self.format] * (self.format != "none") + ["png"] * self.picture
        return [stem.with_name(f"{stem.name}.{ending}") for ending in endings]


def upsample_file(
    model: FeaturePipeline, source: Path, targets: Collection[Path], settings: Settings, place: Path | None = None
) -> dict[str, Any]:  # fmt: skip
    """Upsample one image file and write ``targets``, some or all of :meth:`Settings.outputs`.

    Args:
        model: backbone and upsampler.
        source: the photo.
        targets: files to write.
        settings: of the results.
        place: what the results call the photo; default its name.

    Returns:
        What was done: files, shapes, seconds, and whether the long side was bounded.

    Raises:
        ImageError: the image cannot be read.
        NotEnoughMemoryError: what it needs is not free.
        ValueError: the sizes do not fit the model.
    """
    import torch

    from ..images import read_image
    from ..memory import needed_memory, require_memory

    image = read_image(source)[None]
    made_of = describe_photo(source, place or Path(source.name))
    height, width = image.shape[-2:]
    size = model.working_size(height, width, settings.size)
    device = next((t.device for t in (*model.parameters(), *model.buffers())), image.device)
    what = f"{source}: {size[0]}x{size[1]} pixels of features"
    require_memory(needed_memory(model, size), what, "give a smaller --size", str(device))
    image = resized(image, size)
    start = time.perf_counter()
    with torch.no_grad():
        image = image.to(device)
        gathered = model.upsampler.gather(image, model.backbone)
        low, features = model.upsampler.reference(gathered), model.upsampler(image, gathered)
    seconds = time.perf_counter() - start
    for target in targets:
        made = record(settings.of(target), made_of)
        if target.suffix == ".png":
            _write_picture(target, image[0], low[0], features[0], model, made)
        else:
            _write_features(target, features[0], low[0], settings.dtype, made)
    return {
        "image": str(source),
        "image_size": list(size),
        "bounded": is_bounded(height, width, settings.size),
        "low_res": list(low.shape[1:]),
        "features": list(features.shape[1:]),
        "seconds": round(seconds, 3),
        "files": [str(target) for target in targets],
    }


def _write_features(target: Path, features: Tensor, low: Tensor, dtype: str, made: str) -> None:
    """Write features (C, H, W), and in safetensors the low-resolution (C, h, w) ones beside them."""
    import torch

    from ..atomic import atomic_file

    tensors = {"features": features, "low_res": low}
    tensors = {k: v.detach().to("cpu", getattr(torch, dtype)).contiguous() for k, v in tensors.items()}
    if target.suffix == ".npy":
        import numpy as np

        sidecar(target).unlink(missing_ok=True)  # it must never tell of another array
        with atomic_file(target) as temporary:
            np.save(temporary, tensors["features"].numpy())
        with atomic_file(sidecar(target)) as temporary:
            temporary.write_text(made, encoding="ascii")
        return
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with atomic_file(target) as temporary:
        try:
            save_file(tensors, temporary, {KEY: made})
        except SafetensorError as error:  # a full disk, say
            raise OSError(f"cannot write {target}: {error}") from error


def _write_picture(
    target: Path, image: Tensor, low: Tensor, features: Tensor, model: FeaturePipeline, made: str
) -> None:
    from PIL.PngImagePlugin import PngInfo

    from ..atomic import atomic_file
    from ..picture import PcaBasis, photo, side_by_side

    basis = PcaBasis.fit(low)
    panels = [
        ("photo", photo(image)),
        (f"{name_model(model.backbone)} {low.shape[-2]}x{low.shape[-1]}", basis.picture(low)),
        (f"{name_model(model.upsampler)} {features.shape[-2]}x{features.shape[-1]}", basis.picture(features)),
    ]
    texts = PngInfo()
    texts.add_text(KEY, made)
    with atomic_file(target) as temporary:
        side_by_side(panels, (features.shape[-2], features.shape[-1])).save(temporary, pnginfo=texts)

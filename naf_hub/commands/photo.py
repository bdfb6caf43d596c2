"""One photo upsampled, and its results on disk."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..contenders import name_model
from ..feature_writing import write_features
from ..image_sizes import ImageSize, describe_image_size
from ..made_with import KEY, describe_photo, record
from ..photo_batch import PictureNames

if TYPE_CHECKING:
    from ..pipeline import FeaturePipeline
    from ..upsampled_photo import UpsampledPhoto


@dataclasses.dataclass(frozen=True)
class Settings:
    """What ``upsample`` writes and how.

    Attributes:
        size: of the photos, see :func:`~naf_hub.image_sizes.fit_size`.
        format: ``"safetensors"``, ``"npy"`` or ``"none"``.
        dtype: ``"float16"`` or ``"float32"`` of the saved features.
        picture: whether to write the side-by-side picture.
        models: of upsampler and backbone, see :func:`~naf_hub.made_with.describe_model`.
        names: of the pictures; features of ``a.png`` lie in ``a.png.safetensors`` always.
    """

    size: ImageSize = 448
    format: str = "safetensors"
    dtype: str = "float16"
    picture: bool = True
    models: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    names: PictureNames = dataclasses.field(default_factory=PictureNames)

    def of(self, target: Path) -> dict[str, Any]:
        """Settings on which a file depends; the picture does not on the precision of the saved features."""
        saved = {} if target.suffix == ".png" else {"dtype": self.dtype}
        return {**self.models, "size": describe_image_size(self.size), **saved}

    def outputs(self, stem: Path) -> list[Path]:
        """What is written for one photo."""
        features = [stem.with_name(f"{stem.name}.{self.format}")] * (self.format != "none")
        short = self.names.shortened(stem)
        return features + [short.with_name(f"{short.name}.png")] * self.picture


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
    from ..upsampled_photo import upsample_photo

    made_of = describe_photo(source, place or Path(source.name))
    done = upsample_photo(model, source, settings.size)
    for target in targets:
        made = record(settings.of(target), made_of)
        if target.suffix == ".png":
            _write_picture(target, done, model, made)
        else:
            write_features(target, done.features, done.low, settings.dtype, made)
    return {
        "image": str(source),
        "image_size": list(done.image.shape[-2:]),
        "bounded": done.bounded,
        "low_res": list(done.low.shape),
        "features": list(done.features.shape),
        "seconds": round(done.seconds, 3),
        "files": [str(target) for target in targets],
    }


def _write_picture(target: Path, done: UpsampledPhoto, model: FeaturePipeline, made: str) -> None:
    from PIL.PngImagePlugin import PngInfo

    from ..atomic import atomic_file
    from ..picture import PcaBasis, photo, side_by_side

    low, features = done.low, done.features
    basis = PcaBasis.fit(low)
    panels = [
        ("photo", photo(done.image)),
        (f"{name_model(model.backbone)} {low.shape[-2]}x{low.shape[-1]}", basis.picture(low)),
        (f"{name_model(model.upsampler)} {features.shape[-2]}x{features.shape[-1]}", basis.picture(features)),
    ]
    texts = PngInfo()
    texts.add_text(KEY, made)
    with atomic_file(target) as temporary:
        side_by_side(panels, (features.shape[-2], features.shape[-1])).save(temporary, pnginfo=texts)

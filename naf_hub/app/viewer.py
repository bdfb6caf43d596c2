"""What the page shows, without the page: photo in, pictures and sentences out."""

from __future__ import annotations

import dataclasses
import os
import re
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from ..contenders import name_model
from ..errors import NafHubError, as_typed
from ..feature_writing import write_features
from ..image_sizes import ImageSize, describe_image_size
from ..made_with import describe_photo, record
from ..memory import shortage
from ..picture import PcaBasis, photo
from ..pipeline import FeaturePipeline
from ..plugins import one_line
from ..upsampled_photo import UpsampledPhoto, upsample_photo
from .kept_models import KeptModels
from .similarity import heat_picture, marked, similar_to
from .visits import Visits
from .words import WordMaps

if TYPE_CHECKING:
    from ..interfaces import Backbone

DTYPE = "float16"
"""Of the features that are saved."""

EXPECTED = (NafHubError, ValueError, TypeError, OSError, NotImplementedError)
"""What a user can cause and mend."""

CLICKED = 448
"""Pixels of the longer side to which smaller photos are enlarged, as far as whole numbers go."""

Pair = tuple[Image.Image, Image.Image]
"""Two pictures of one size, to be laid over each other."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """A photo that was upsampled.

    Attributes:
        done: its tensors.
        model: that made them.
        made: what a record says of them, see :func:`naf_hub.made_with.record`.
        name: of the file.
        zoom: so many pixels of the photo that is clicked on are one of the features, along each side.
        panels: pictures of the same size by name: photo, low-resolution and upsampled features.
        said: one line on it.
    """

    done: UpsampledPhoto
    model: FeaturePipeline
    made: str
    name: str
    zoom: int
    panels: Mapping[str, Image.Image]
    said: str

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of photo and features."""
        height, width = self.done.image.shape[-2:]
        return height, width

    @property
    def view(self) -> Image.Image:
        """The photo that is clicked on, enlarged ``zoom`` times: gradio misplaces clicks where the page enlarges it."""
        picture = self.panels["photo"]
        return picture.resize(
            (picture.width * self.zoom, picture.height * self.zoom), Image.Resampling.NEAREST
        )


class Viewer:
    """Upsamples photos and shows what is alike in them.

    Args:
        models: where models come from.
        visits: where results go.
        words: finds what is named in words; ``None`` where nothing does.
    """

    def __init__(self, models: KeptModels, visits: Visits[Shown], words: WordMaps | None = None) -> None:
        self.models, self.visits, self.words = models, visits, words

    def upsample(self, visit: str, source: Path, backbone: str, upsampler: str, size: ImageSize) -> Shown:
        """Upsample a photo, and keep it for the visit.

        Args:
            visit: whose it is.
            source: the photo.
            backbone, upsampler: ``NAME[=WEIGHTS]``.
            size: that the photo is brought to, see :func:`naf_hub.image_sizes.fit_size`.

        Raises:
            ImageError, NotEnoughMemoryError, ValueError: see :func:`naf_hub.upsampled_photo.upsample_photo`.
            UnknownNameError, WeightsError: see :meth:`KeptModels.load`.
        """
        model, settings = self.models.load(backbone, upsampler)
        done = upsample_photo(model, source, size, "choose a smaller size")
        said = {**settings, "size": describe_image_size(size), "dtype": DTYPE}
        made = record(said, describe_photo(source, Path(source.name)))
        picture, basis = photo(done.image), PcaBasis.fit(done.low)
        panels = {
            "photo": picture,
            "low-resolution features": basis.picture(done.low).resize(picture.size, Image.Resampling.NEAREST),
            "upsampled features": basis.picture(done.features),
        }
        zoom = max(1, CLICKED // max(picture.size))
        shown = Shown(done, model, made, source.name, zoom, panels, _describe(done, model))
        self.visits.keep(visit, shown)
        return shown

    def compare(self, visit: str, left: str) -> Pair:
        """A panel of the visit's photo by its name, and its upsampled features."""
        panels = self.visits.of(visit).panels
        return panels[left], panels["upsampled features"]

    def similar(self, visit: str, at: tuple[int, int]) -> tuple[Image.Image, Pair, str]:
        """How like one pixel of the visit's photo the others are.

        Args:
            visit: whose photo.
            at: row and column in :attr:`Shown.view`.

        Returns:
            The photo with the pixel marked; the cosines of low-resolution and of upsampled features, in one range of
            colours; and a line on them.

        Raises:
            ValueError: no photo, or the pixel lies outside it.
        """
        shown = self.visits.of(visit)
        row, column = at[0] // shown.zoom, at[1] // shown.zoom
        maps = [
            similar_to(features, (row, column), shown.size)
            for features in (shown.done.low, shown.done.features)
        ]
        low = min(float(values.min()) for values in maps)
        before, after = (heat_picture(values, low, 1.0, shown.size) for values in maps)
        said = (
            f"Cosine similarity to the pixel in row {row}, column {column}: {low:.2f} (dark) to 1 (bright)."
        )
        return marked(shown.view, at), (before, after), said

    def find(self, visit: str, words: str) -> tuple[Pair, str]:
        """Where the visit's photo shows what is named in words, over the photo, and a line on it.

        Raises:
            ValueError: no photo, no words, or nothing here that reads words.
        """
        if self.words is None:
            raise ValueError("no CLIP on this machine reads words; see the page on the app in the docs")
        shown = self.visits.of(visit)
        backbone = cast("Backbone", shown.model.backbone)
        values = self.words.find(shown.done.image, words, backbone, shown.model.upsampler)
        low, high = float(values.min()), float(values.max())
        picture = heat_picture(values, low, high, shown.size)
        said = f"Cosine similarity to {words.strip()!r}: {low:.3f} (dark) to {high:.3f} (bright)."
        return (shown.panels["photo"], picture), said

    def save(self, visit: str) -> Path:
        """A file with the visit's features, as ``naf-hub upsample`` writes it; in a folder of its own.

        Raises:
            ValueError: no photo.
            OSError: it cannot be written.
        """
        shown = self.visits.of(visit)
        folder = self.visits.folder / uuid.uuid4().hex
        folder.mkdir()
        target = folder / f"{Path(shown.name).stem}.safetensors"
        write_features(target, shown.done.features, shown.done.low, DTYPE, shown.made)
        return target

    def explain(self, error: Exception) -> str:
        """An error in one line, in which files bear their own names alone."""
        text = shortage(error) or (
            as_typed(error) if isinstance(error, EXPECTED) else f"unexpected {one_line(error)}"
        )
        inside = re.escape(f"{self.visits.folder}{os.sep}") + rf"(?:\w+{re.escape(os.sep)})?"
        return " ".join(re.sub(inside, "", text).split())


def _describe(done: UpsampledPhoto, model: FeaturePipeline) -> str:
    sizes = ["x".join(map(str, map_.shape[1:])) for map_ in (done.low, done.features)]
    return (
        f"{name_model(model.backbone)}: {sizes[0]} cells of {done.low.shape[0]} channels; "
        f"{name_model(model.upsampler)}: {sizes[1]} pixels, {done.seconds:.1f} s."
    )

"""The task: which class does each pixel show? Mean intersection over union on ``val``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from naf_hub import Upsampler
from naf_hub.labels import IGNORE

from .course import CrossEntropy
from .filtering import AsFilter
from .folders import open_segmentation
from .goal import Goal
from .linear_probe import LinearProbe
from .metrics import BANDS, Scores, boundary_band, predict
from .pairs import LabelledImage
from .presets import MODES, with_preset
from .protocol import ProbeProtocol
from .report import SEGMENTATION_METRICS, score_figures
from .segmentation_pictures import Shown, segmentation_sheet
from .transforms import Geometry, Size, require_sides, times

PICTURES = 4


@dataclasses.dataclass(frozen=True)
class SegmentationProtocol(ProbeProtocol):
    """What decides the figures.

    Attributes:
        label_size: see :class:`naf_hub_probing.transforms.Geometry`. A size of pictures other than that of labels is
            the paper's scaling ratio (Tab. 12).
        preset: name in :data:`naf_hub_probing.presets.PRESETS`, for what is not given.
        layout: of the data; see :func:`naf_hub_probing.layouts.find_layout`.
        mode: ``"upsample"``, or ``"filter"``: see :class:`naf_hub_probing.filtering.AsFilter`.
        enlarge: the backbone and the upsampler see pictures of so many times ``size``, while labels stay as they are:
            the larger image that the paper compares with (Tab. 9), where the upsampler is bilinear.
        allow_incomplete: take a published data set although pictures are missing.
    """

    label_size: Size | None = None
    preset: str | None = None
    layout: str | None = None
    mode: str = "upsample"
    enlarge: int = 1
    allow_incomplete: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.mode not in MODES:
            raise ValueError(f"no mode {self.mode!r}; there are: {', '.join(MODES)}")
        if self.enlarge < 1:
            raise ValueError(f"enlarge must be at least 1, got {self.enlarge}")
        if self.label_size is not None:
            require_sides("label_size", self.label_size)
        self.geometry  # noqa: B018 (raises where the two sizes do not fit)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> SegmentationProtocol:
        """See :meth:`ProbeProtocol.read`; with the settings of the preset filled in."""
        return super().read(with_preset(settings))

    @property
    def geometry(self) -> Geometry:
        """Sizes of pictures and labels."""
        if self.enlarge == 1:
            return Geometry(self.size, self.label_size)
        plain = self.size if isinstance(self.size, int) else None
        return Geometry(times(self.size, self.enlarge), self.label_size or plain)


@dataclasses.dataclass
class SegmentationMeter:
    """Confusions of one head, and some of its predictions to look at."""

    scores: Scores
    shown: list[Shown] = dataclasses.field(default_factory=list)


class PixelClasses(Goal):
    """Each pixel's class; see :class:`Segmentation`."""

    def __init__(
        self,
        data: str | os.PathLike[str],
        protocol: SegmentationProtocol,
        out: str | os.PathLike[str] | None,
    ) -> None:
        limits = protocol.limit_train or protocol.limit, protocol.limit
        layout, self.train, self.val = open_segmentation(
            data, protocol.layout, protocol.geometry, limits, out, protocol.allow_incomplete
        )
        self.names = self.val.classes.names
        self.outputs = len(self.names)
        self.objective = CrossEntropy()
        self.facts = {"classes": list(self.names), "layout": layout}
        self.pictures = {i * len(self.val) // PICTURES for i in range(PICTURES)}

    def meter(self) -> SegmentationMeter:
        """Confusions."""
        return SegmentationMeter(Scores(self.outputs))

    def add(
        self, meters: Sequence[SegmentationMeter], scores: Iterator[Tensor], sample: LabelledImage
    ) -> None:
        """Count predictions."""
        bands = {width: boundary_band(sample.label, width, IGNORE) for width in BANDS}
        for one, meter in zip(scores, meters, strict=True):
            prediction = predict(one[0])
            meter.scores.update(prediction, sample.label, bands, IGNORE)
            if sample.position in self.pictures and meter is meters[-1]:
                meter.shown.append(Shown(sample.image.cpu(), sample.label.cpu(), prediction.cpu()))

    def figures(self, meter: SegmentationMeter) -> dict[str, Any]:
        """Percent; see :func:`naf_hub_probing.report.score_figures`."""
        return score_figures(meter.scores, self.names)

    def show(self, meters: Sequence[SegmentationMeter]) -> Image.Image | None:
        """Predictions of the last epoch, or of the last seed, beside the labels and the errors."""
        return segmentation_sheet(meters[-1].shown, self.names)


class Segmentation(LinearProbe):
    """Linear-probe semantic segmentation (NAF paper, sections 4.1 and B.2).

    The data folder holds ``{train,val}/images/``, ``{train,val}/labels/`` (one class id a pixel, same file
    name without suffix) and ``classes.json`` (see :func:`naf_hub.labels.read_classes`), or a data set of
    :data:`naf_hub_probing.layouts.LAYOUTS` as it is published.

    mIoU, pixel accuracy and IoU per class are in percent, ``None`` for a class that occurs neither in the labels nor
    in the predictions. Bands count the pixels at most so many rows and columns from one of another class.
    """

    name = "segmentation"
    version = 1
    metrics = SEGMENTATION_METRICS
    settings = SegmentationProtocol
    scores_epochs = True

    def goal(
        self,
        data: str | os.PathLike[str],
        protocol: SegmentationProtocol,
        out: str | os.PathLike[str] | None,
    ) -> PixelClasses:
        """See :class:`PixelClasses`."""
        return PixelClasses(data, protocol, out)

    def adapt(self, model: Upsampler, protocol: SegmentationProtocol) -> Upsampler:
        """The upsampler in the protocol's mode."""
        return AsFilter(model) if protocol.mode == "filter" else model

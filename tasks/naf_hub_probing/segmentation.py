"""The task: which class does each pixel show? Mean intersection over union on ``val``."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from naf_hub.labels import IGNORE, read_classes

from .course import CrossEntropy
from .folders import SegmentationFolder
from .goal import Goal
from .linear_probe import LinearProbe
from .metrics import BANDS, Scores, boundary_band, predict
from .pairs import LabelledImage
from .protocol import ProbeProtocol
from .report import SEGMENTATION_METRICS, score_figures
from .transforms import Geometry, Size


@dataclasses.dataclass(frozen=True)
class SegmentationProtocol(ProbeProtocol):
    """What decides the figures.

    Attributes:
        label_size: see :class:`naf_hub_probing.transforms.Geometry`.
    """

    label_size: Size | None = None


class Classes(Goal):
    """Each pixel's class, of a folder; see :class:`Segmentation`."""

    def __init__(
        self,
        data: str | os.PathLike[str],
        protocol: SegmentationProtocol,
        out: str | os.PathLike[str] | None,
    ) -> None:
        geometry = Geometry(protocol.size, protocol.label_size)
        classes = read_classes(Path(data) / "classes.json")
        limit = protocol.limit_train or protocol.limit
        self.train = SegmentationFolder(data, "train", classes, geometry, limit, out)
        self.val = SegmentationFolder(data, "val", classes, geometry, protocol.limit, out)
        self.names = classes.names
        self.outputs = len(self.names)
        self.objective = CrossEntropy()
        self.facts = {"classes": list(self.names)}

    def meter(self) -> Scores:
        """Confusions."""
        return Scores(self.outputs)

    def add(self, meters: Sequence[Scores], scores: Iterator[Tensor], sample: LabelledImage) -> None:
        """Count predictions."""
        bands = {width: boundary_band(sample.label, width, IGNORE) for width in BANDS}
        for one, meter in zip(scores, meters, strict=True):
            meter.update(predict(one[0]), sample.label, bands, IGNORE)

    def figures(self, meter: Scores) -> dict[str, Any]:
        """Percent; see :func:`naf_hub_probing.report.score_figures`."""
        return score_figures(meter, self.names)


class Segmentation(LinearProbe):
    """Linear-probe semantic segmentation (NAF paper, sections 4.1 and B.2).

    The data folder holds ``{train,val}/images/``, ``{train,val}/labels/`` (one class id a pixel, same file
    name without suffix) and ``classes.json`` (see :func:`naf_hub.labels.read_classes`).

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
    ) -> Classes:
        """See :class:`Classes`."""
        return Classes(data, protocol, out)

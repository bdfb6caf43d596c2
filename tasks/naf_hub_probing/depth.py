"""The task: how far away is what each pixel shows? Share of nearly right depths, and their error in metres."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from naf_hub.errors import DatasetError
from naf_hub.reports import Metric

from .depth_folders import open_splits
from .depth_losses import DepthLoss, ReadOut
from .depth_metrics import EIGEN_SIZE, DepthScores, depth_figures, eigen_crop
from .depth_pictures import Shown, depth_sheet
from .goal import Goal
from .linear_probe import LinearProbe
from .pairs import LabelledImage
from .protocol import ProbeProtocol

PICTURES = 3


@dataclasses.dataclass(frozen=True)
class DepthProtocol(ProbeProtocol):
    """What decides the figures.

    Attributes:
        unit: metres that one step of the depth pictures stands for (not of NYUv2's own file).
        max_depth: metres; depths beyond are not known, and none is predicted.
        read_out: see :class:`naf_hub_probing.depth_losses.ReadOut`.
        eigen_crop: score the crop of Eigen et al. alone, of pictures of 480x640.
        train_data: folder with ``rgb/`` and ``depth/`` to train on in place of a split of the data.
    """

    unit: float = 0.001
    max_depth: float = 10.0
    read_out: str = "linear"
    eigen_crop: bool = False
    train_data: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (math.isfinite(self.unit) and self.unit > 0):
            raise ValueError(f"unit must be positive, got {self.unit}")
        if self.eigen_crop and self.size != EIGEN_SIZE:
            raise ValueError(f"the Eigen crop is one of 480x640 pictures; give size 480x640, not {self.size}")
        ReadOut(self.read_out, farthest=self.max_depth)  # whose complaints come before any work


@dataclasses.dataclass
class DepthMeter:
    """Figures of one head's depths, and some of them to look at."""

    scores: DepthScores = dataclasses.field(default_factory=DepthScores)
    shown: list[Shown] = dataclasses.field(default_factory=list)


class Distances(Goal):
    """Each pixel's depth; see :class:`Depth`."""

    def __init__(
        self, data: str | os.PathLike[str], protocol: DepthProtocol, out: str | os.PathLike[str] | None
    ) -> None:
        self.read = ReadOut(protocol.read_out, farthest=protocol.max_depth)
        limits = protocol.limit_train or protocol.limit, protocol.limit
        self.train, self.val = open_splits(
            data, protocol.train_data, protocol.unit, protocol.size, self.read, limits, out
        )
        self.outputs = self.read.outputs
        self.objective = DepthLoss(self.read)
        self.facts = {}
        self.cropped = protocol.eigen_crop
        self.pictures = {i * len(self.val) // PICTURES for i in range(PICTURES)}

    def meter(self) -> DepthMeter:
        """Figures of each picture."""
        return DepthMeter()

    def add(self, meters: Sequence[DepthMeter], scores: Iterator[Tensor], sample: LabelledImage) -> None:
        """Score one picture."""
        target = sample.label
        for one, meter in zip(scores, meters, strict=True):
            depth = self.read(one)[0]
            pair = (eigen_crop(depth), eigen_crop(target)) if self.cropped else (depth, target)
            figures = depth_figures(*pair, self.read.farthest)
            if figures is not None:
                meter.scores.found.append(figures)
            if sample.position in self.pictures and meter is meters[-1]:
                meter.shown.append(Shown(sample.image.cpu(), target.cpu(), depth.cpu()))

    def figures(self, meter: DepthMeter) -> dict[str, Any]:
        """See :func:`naf_hub_probing.depth_metrics.depth_figures`."""
        if not meter.scores.found:
            raise DatasetError("no depth is known where the Eigen crop is")
        return meter.scores.mean()

    def show(self, meters: Sequence[DepthMeter]) -> Image.Image | None:
        """Predictions, of the last seed where there are several, beside the truth and the error."""
        return depth_sheet(meters[-1].shown)


class Depth(LinearProbe):
    """Linear-probe monocular depth (NAF paper, sections 4.1.2 and B.2; losses and metrics of Probe3D).

    Data: see :data:`naf_hub_probing.depth_folders.LAYOUT`. Only the last epoch is scored. Figures are means over the
    pictures; shares are in percent, ``rmse`` and ``si_rmse`` in metres. Further ones are among the extras of a row,
    under ``last``.
    """

    name = "depth"
    version = 1
    metrics = (
        Metric("delta1", "%", True, 1),
        Metric("delta2", "%", True, 1),
        Metric("delta3", "%", True, 1),
        Metric("rmse", "m", False, 3, "RMSE"),
        Metric("abs_rel", "", False, 3, "abs. rel."),
        Metric("si_delta1", "%", True, 1, "aligned delta1"),
        Metric("si_rmse", "m", False, 3, "aligned RMSE"),
    )
    settings = DepthProtocol
    scores_epochs = False

    def goal(
        self, data: str | os.PathLike[str], protocol: DepthProtocol, out: str | os.PathLike[str] | None
    ) -> Distances:
        """See :class:`Distances`."""
        return Distances(data, protocol, out)

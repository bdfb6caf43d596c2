"""How far matches are from the truth in space and in the picture, and the shares that are near enough."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor

from naf_hub.reports import Metric

from .pck import distances
from .point_maps import project
from .poses import Pose

# The first ranks; by 2 cm the angles are told apart, too.
CENTIMETRES = (2, 1, 5)
"""How far off the surest points may be in space."""
PIXELS = (50, 25, 5)
"""How far off they may be in the target's square."""
ANGLES = (0, 30, 60, 90, 120)
"""Bounds in degrees of the bins of angles between the two cameras; the upper one is not in its bin."""

METRICS = (
    *(Metric(f"recall_{limit}cm", "%", True, 2, f"recall@{limit}cm") for limit in CENTIMETRES),
    *(Metric(f"recall_{limit}px", "%", True, 2, f"recall@{limit}px") for limit in PIXELS),
    *(
        Metric(f"recall_{CENTIMETRES[0]}cm_{low}_{high}", "%", True, 2, f"@{CENTIMETRES[0]}cm {low}-{high}°")
        for low, high in pairwise(ANGLES)
    ),
)
"""Columns of a report, in the order of :meth:`Recalls.figures`."""


def point_errors(points: Tensor, found: Tensor, pose: Pose, focal: float) -> tuple[Tensor, Tensor]:
    """By how much matches miss the truth.

    Args:
        points: (N, 3) metres in the source's camera.
        found: (N, 3) metres in the target's, the points of the cells that were taken for them.
        pose: from the source's camera to the target's.
        focal: of the target, in pixels.

    Returns:
        (N,) metres between both points, and (N,) pixels between their projections in the target; float64.
    """
    truth = pose.move(points)
    return distances(found, truth), distances(project(found.double(), focal), project(truth, focal))


def shares_below(metres: Tensor, pixels: Tensor, keep: int) -> list[float]:
    """Percent of ``keep`` matches that miss by less than each of :data:`CENTIMETRES`, then of :data:`PIXELS`.

    Args:
        metres, pixels: (N,) errors of at most ``keep`` matches, see :func:`point_errors`; those that there are not are
            infinitely wrong.
        keep: the number of matches that count.
    """
    below = [(metres < limit / 100).sum() for limit in CENTIMETRES]
    below += [(pixels < limit).sum() for limit in PIXELS]
    return [100 * number.item() / keep for number in below]


def binned_means(
    values: Sequence[float], positions: Sequence[float], bounds: Sequence[float]
) -> list[float | None]:
    """Mean of the values whose position is in each bin, the lower bound in it, the upper one not; ``None`` of none."""
    means: list[float | None] = []
    for low, high in pairwise(bounds):
        inside = [value for value, place in zip(values, positions, strict=True) if low <= place < high]
        means.append(sum(inside) / len(inside) if inside else None)
    return means


class Recalls:
    """What one contender found: of each pair the angle, and percents as :func:`shares_below` gives them."""

    def __init__(self) -> None:
        self.angles: list[float] = []
        self.percents: list[Sequence[float]] = []

    def add(self, angle: float, percents: Sequence[float]) -> None:
        """Take in one pair."""
        self.angles.append(angle)
        self.percents.append(percents)

    def figures(self) -> dict[str, float | None]:
        """Percent by the names of the metrics."""
        means = [sum(column) / len(column) for column in zip(*self.percents, strict=True)]
        by_angle = binned_means([percents[0] for percents in self.percents], self.angles, ANGLES)
        return {metric.name: value for metric, value in zip(METRICS, [*means, *by_angle], strict=True)}

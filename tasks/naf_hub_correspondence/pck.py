"""Percentage of correct keypoints (PCK), and the three ways in which the literature takes its mean."""

from __future__ import annotations

import dataclasses
from collections import defaultdict

import torch
from torch import Tensor

from naf_hub.reports import Metric

LIMITS = (0.1, 0.05, 0.01)
"""How far off a point may be, as a share of a length that the protocol names."""


def distances(found: Tensor, truth: Tensor) -> Tensor:
    """Euclidean distances of points (N, 2): (N,) float64."""
    return (found.double() - truth.double()).norm(dim=1)


def correct_plus(found: Tensor, truth: Tensor, reach: float) -> Tensor:
    """(N,) whether each point is within ``reach`` of its truth and nearer to it than all other points found (PCK+)."""
    apart = (truth.double()[:, None] - found.double()[None]).norm(dim=2)
    return (distances(found, truth) <= reach) & (apart.argmin(dim=1) == torch.arange(len(truth)))


def metrics(way: str, mean: str) -> tuple[Metric, ...]:
    """Columns of one way of averaging, a column for each of :data:`LIMITS`."""
    # The mean's name stands between limit and unit: "@0.1 %" would read as a thousandth.
    return tuple(Metric(f"{way}_{limit}", "%", True, 2, f"PCK@{limit} {mean}") for limit in LIMITS)


@dataclasses.dataclass
class Tally:
    """Correct points of pictures, by category.

    Attributes:
        pictures: of each category, the shares of correct points of its pictures and their numbers of points.
    """

    pictures: dict[str, list[tuple[float, int]]] = dataclasses.field(
        default_factory=lambda: defaultdict(list)
    )

    def add(self, category: str, correct: Tensor) -> None:
        """Take in one picture: (N,) whether each point is correct; one without points counts nowhere."""
        self.count(category, int(correct.sum()), len(correct))

    def count(self, category: str, correct: int, points: int) -> None:
        """:meth:`add` of so many points."""
        if points:
            self.pictures[category].append((correct / points, points))

    def of_categories(self) -> dict[str, float]:
        """Percent of the points of each category."""
        return {name: 100 * _of_points(found) for name, found in self.pictures.items()}

    @property
    def per_category(self) -> float:
        """Percent: points within a category, then the plain mean of the categories (the kit's headline)."""
        shares = list(self.of_categories().values())
        return sum(shares) / len(shares)

    @property
    def per_point(self) -> float:
        """Percent of all points."""
        return 100 * _of_points([one for found in self.pictures.values() for one in found])

    @property
    def per_image(self) -> float:
        """Percent: mean over pictures of the share of their points."""
        shares = [share for found in self.pictures.values() for share, _ in found]
        return 100 * sum(shares) / len(shares)


def _of_points(pictures: list[tuple[float, int]]) -> float:
    return sum(share * points for share, points in pictures) / sum(points for _, points in pictures)

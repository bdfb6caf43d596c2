"""Region similarity J and boundary accuracy F of masks, as DAVIS defines them (Perazzi et al., 2016)."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

BOUND = 0.008
"""How far a boundary may lie from the true one, as a fraction of the picture's diagonal."""


@dataclasses.dataclass(frozen=True)
class ObjectScores:
    """One object's figures in each scored frame, in [0, 1].

    Attributes:
        j: share of the union of both masks that lies in both; 1 where neither has the object.
        f: boundary measure of the official evaluation.
        f_script: boundary measure of NAF's script.
    """

    j: tuple[float, ...]
    f: tuple[float, ...]
    f_script: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class VideoScores:
    """One video's figures.

    Attributes:
        objects: of every object that the true masks show in any frame.
        starting: how many of them, from the first on, the official evaluation counts: those up to the highest number
            in the first frame.
    """

    objects: tuple[ObjectScores, ...]
    starting: int

    @classmethod
    def of(cls, found: np.ndarray, truth: np.ndarray) -> VideoScores:
        """Of masks (T, H, W) that number objects from 1 on; the first frame and the last are not scored.

        Raises:
            ValueError: other shapes, or an object that the true masks never show.
        """
        if found.shape != truth.shape:
            raise ValueError(f"masks are {found.shape}, the true ones {truth.shape}")
        count = int(truth.max())
        if found.max() > count:
            raise ValueError(f"masks show an object {found.max()}; the true ones go up to {count}")
        pairs = list(zip(found[1:-1], truth[1:-1], strict=True))
        objects: list[ObjectScores] = []
        for number in range(1, count + 1):
            own = [(a == number, b == number) for a, b in pairs]
            objects.append(
                ObjectScores(
                    tuple(region_similarity(a, b) for a, b in own),
                    tuple(boundary_measure(a, b) for a, b in own),
                    tuple(boundary_measure(a, b, script_boundary, nothing=0.0) for a, b in own),
                )
            )
        return cls(tuple(objects), int(truth[0].max()))

    @classmethod
    def from_dict(cls, plain: Any) -> VideoScores:
        """What :func:`dataclasses.asdict` made of one."""
        objects = [ObjectScores(**{key: tuple(v) for key, v in one.items()}) for one in plain["objects"]]
        return cls(tuple(objects), plain["starting"])


def region_similarity(found: np.ndarray, truth: np.ndarray) -> float:
    """Intersection over union of two masks (H, W) of booleans; 1 where both are empty."""
    union = np.count_nonzero(found | truth)
    return np.count_nonzero(found & truth) / union if union else 1.0


def official_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower right neighbour, as far as there is one; never the corner."""
    edge = np.zeros(mask.shape, dtype=bool)
    edge[:, :-1] |= mask[:, :-1] != mask[:, 1:]
    edge[:-1] |= mask[:-1] != mask[1:]
    edge[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    return edge


def script_boundary(mask: np.ndarray) -> np.ndarray:
    """Pixels where the 3x3 Sobel gradient of the mask is not 0, mirrored at the border without repeating it."""
    wide = np.pad(mask.astype(np.int16), 1, mode="reflect")
    smooth_rows = wide[:-2] + 2 * wide[1:-1] + wide[2:]
    smooth_columns = wide[:, :-2] + 2 * wide[:, 1:-1] + wide[:, 2:]
    return (smooth_rows[:, 2:] != smooth_rows[:, :-2]) | (smooth_columns[2:] != smooth_columns[:-2])


def boundary_measure(
    found: np.ndarray,
    truth: np.ndarray,
    boundary: Callable[[np.ndarray], np.ndarray] = official_boundary,
    nothing: float = 1.0,
) -> float:
    """Harmonic mean of the shares of both boundaries that lie within the tolerance of the other.

    Args:
        found, truth: masks (H, W) of booleans.
        boundary: gives the boundary of a mask.
        nothing: the figure where neither has a boundary; it is 0 where one has.
    """
    radius = math.ceil(BOUND * math.hypot(*truth.shape))
    ours, theirs = (np.argwhere(boundary(mask)) for mask in (found, truth))
    if not (len(ours) and len(theirs)):
        return nothing if len(ours) == len(theirs) else 0.0
    precision = _share_near(ours, theirs, radius, truth.shape)
    recall = _share_near(theirs, ours, radius, truth.shape)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _share_near(points: np.ndarray, others: np.ndarray, radius: int, size: Sequence[int]) -> float:
    """Share of points (n, 2) at most ``radius`` away from any of the others (m, 2)."""
    span = np.arange(-radius, radius + 1)
    disc = np.argwhere(span[:, None] ** 2 + span[None] ** 2 <= radius**2)  # offsets, counted from the corner
    near = np.zeros((size[0] + 2 * radius, size[1] + 2 * radius), dtype=bool)
    for down, right in disc:
        near[others[:, 0] + down, others[:, 1] + right] = True
    return float(np.mean(near[points[:, 0] + radius, points[:, 1] + radius]))


def summarise(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean of figures in the order of their frames, share over 0.5, and by how much the first quarter's mean is above
    the last one's."""
    series = np.asarray(values)
    ends = np.round(np.linspace(1, len(series), 5) + 1e-10).astype(int) - 1
    decay = series[ends[0] : ends[1] + 1].mean() - series[ends[3] : ends[4] + 1].mean()
    return float(series.mean()), float(np.mean(series > 0.5)), float(decay)


def dataset_figures(videos: Sequence[VideoScores]) -> dict[str, float]:
    """Percent, as means over all objects of all videos; for the keys see ``METRICS`` of the task."""
    objects = [one for video in videos for one in video.objects[: video.starting]]
    j, f = ([summarise(getattr(one, key)) for one in objects] for key in ("j", "f"))
    figures = {
        f"{key}_{name}": statistics.fmean(values)
        for key, found in (("j", j), ("f", f))
        for name, values in zip(("mean", "recall", "decay"), zip(*found, strict=True), strict=True)
    }
    everything = [one for video in videos for one in video.objects]
    j_all, f_script = (
        statistics.fmean(statistics.fmean(getattr(one, key)) for one in everything)
        for key in ("j", "f_script")
    )
    figures |= {
        "jf_mean": (figures["j_mean"] + figures["f_mean"]) / 2,
        "script_f_mean": f_script,
        "script_jf_mean": (j_all + f_script) / 2,
    }
    return {key: 100 * value for key, value in figures.items()}

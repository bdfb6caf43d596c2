"""How far a depth map is off: figures of single pictures, averaged over pictures (Probe3D, JAFAR)."""

from __future__ import annotations

import statistics

import torch
from torch import Tensor

NEAREST = 1e-3
EIGEN_SIZE = (480, 640)
EIGEN_ROWS, EIGEN_COLUMNS = slice(45, 471), slice(41, 601)
SHARES = ("delta1", "delta2", "delta3")


def eigen_crop(depth: Tensor) -> Tensor:
    """Rows 45 to 470 and columns 41 to 600 of (..., 480, 640): what NYUv2 has depths for (Eigen et al., 2014).

    Raises:
        ValueError: another size.
    """
    if tuple(depth.shape[-2:]) != EIGEN_SIZE:
        raise ValueError(f"the Eigen crop is one of 480x640, not of {depth.shape[-2]}x{depth.shape[-1]}")
    return depth[..., EIGEN_ROWS, EIGEN_COLUMNS]


def align(prediction: Tensor, target: Tensor, valid: Tensor) -> Tensor:
    """s * prediction + t with the least squared error on the valid pixels; as it is where no s and t are the best."""
    p, d = prediction[valid], target[valid]
    spread = p.var(correction=0)
    if not len(p) or spread <= torch.finfo(p.dtype).eps * p.square().mean():
        return prediction
    s = ((p - p.mean()) * (d - d.mean())).mean() / spread
    return s * prediction + (d.mean() - s * p.mean())


def depth_figures(prediction: Tensor, target: Tensor, farthest: float = 10.0) -> dict[str, float] | None:
    """Figures of one picture, depths (H, W) in metres; ``None`` where no depth is known.

    Valid pixels have 0 < target <= ``farthest``; the figures from ``abs_rel`` to ``silog`` leave out both ends of
    0.001 to ``farthest``. The prediction is clamped to that range. ``deltaK`` is the percentage of pixels with
    max(target / prediction, prediction / target) < 1.25^K. Names with ``si_`` are of the prediction after
    :func:`align`, not clamped; where that is not positive, it is wrong.
    """
    prediction, target = prediction.double(), target.double()
    valid = (target > 0) & (target <= farthest)
    if not valid.any():
        return None
    prediction = prediction.clamp(NEAREST, farthest)
    aligned = align(prediction, target, valid)
    found = {
        **_shares(prediction[valid], target[valid]),
        **{f"si_{name}": value for name, value in _shares(aligned[valid], target[valid]).items()},
    }
    inside = (target > NEAREST) & (target < farthest)
    p, d = prediction[inside], target[inside]
    e = p.log() - d.log()
    further = {
        "abs_rel": ((p - d).abs() / d).mean(),
        "sq_rel": ((p - d).square() / d).mean(),
        "rmse_log": e.square().mean().sqrt(),
        "log10": (p.log10() - d.log10()).abs().mean(),
        "silog": 100 * (e.square().mean() - e.mean().square()).clamp(min=0).sqrt(),
    }
    return found | {name: float(value) for name, value in further.items() if len(p)}


def _shares(prediction: Tensor, target: Tensor) -> dict[str, float]:
    ratio = torch.maximum(target / prediction, prediction / target)
    ratio = torch.where(prediction > 0, ratio, torch.inf)
    shares = {name: 100 * float((ratio < 1.25**k).double().mean()) for k, name in enumerate(SHARES, start=1)}
    return {**shares, "rmse": float((target - prediction).square().mean().sqrt())}


class DepthScores:
    """Figures of many pictures, see :func:`depth_figures`."""

    def __init__(self) -> None:
        self.found: list[dict[str, float]] = []

    def mean(self) -> dict[str, float]:
        """Each figure's mean over the pictures that have it."""
        names = {name: None for figures in self.found for name in figures}
        return {name: statistics.fmean(f[name] for f in self.found if name in f) for name in names}

"""Where cameras stand: rigid motions from an object to what a camera sees of it, and angles between them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Pose(NamedTuple):
    """A rigid motion of points, such as from an object's coordinates to a camera's: x right, y down, z ahead.

    Attributes:
        rotation: (3, 3) float64.
        translation: (3,) float64, metres.
    """

    rotation: Tensor
    translation: Tensor

    @classmethod
    def of(cls, quaternion: Sequence[float], translation: Sequence[float]) -> Pose:
        """The motion of a quaternion (w, x, y, z) of any length but 0, and of a shift in metres."""
        real, *imaginary = (torch.tensor(quaternion, dtype=torch.float64) / _length(quaternion)).tolist()
        x, y, z = imaginary
        cross = torch.tensor([[0, -z, y], [z, 0, -x], [-y, x, 0]], dtype=torch.float64)
        rotation = torch.eye(3, dtype=torch.float64) + 2 * (real * cross + cross @ cross)
        return cls(rotation, torch.tensor(translation, dtype=torch.float64))

    def to(self, other: Pose) -> Pose:
        """From what this camera sees to what another one sees of the same object."""
        rotation = other.rotation @ self.rotation.T
        return Pose(rotation, other.translation - rotation @ self.translation)

    def move(self, points: Tensor) -> Tensor:
        """Points (N, 3) in metres, moved: (N, 3) float64."""
        return points.double() @ self.rotation.T + self.translation

    @property
    def angle(self) -> float:
        """By which it turns, in degrees, 0 to 180."""
        return angles(self.rotation).item()


def angles(rotations: Tensor) -> Tensor:
    """By which matrices (..., 3, 3) turn, in degrees, 0 to 180: (...)."""
    cosine = (rotations.diagonal(dim1=-2, dim2=-1).sum(-1) - 1) / 2
    return cosine.clamp(-1, 1).acos().rad2deg()


def _length(values: Sequence[float]) -> float:
    return torch.tensor(values, dtype=torch.float64).norm().item()

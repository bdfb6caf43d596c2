"""What decides the figures of video object segmentation, and the published settings by name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from naf_hub.training.settings import build

PRESETS: Mapping[str, Mapping[str, Any]] = MappingProxyType(
    {
        "paper": {"size": 448, "factor": 2, "topk": 20, "radius": 24},
        "code": {"size": None, "factor": 1, "topk": 5, "radius": 12},
        "lift": {"size": 224, "factor": 2, "topk": 5, "radius": 12},
    }
)
"""``paper``: NAF, appendix B.2. ``code``: what NAF's released script sets. ``lift``: LiFT (Suri et al., 2024)."""
GUIDES = ("grid", "frame")


@dataclasses.dataclass(frozen=True)
class VideoProtocol:
    """What decides the figures.

    Attributes:
        size: both sides of the frames as the backbone sees them, in pixels; ``None`` is each video's own size. Either
            is rounded down to multiples of the backbone's patch.
        factor: by how much features are upsampled; masks are carried along on a grid so many times the backbone's.
        topk: most similar cells, of all earlier frames that are kept, that a cell takes its mask from.
        radius: only cells at most so many rows and columns away count; 0 lets all count.
        context: frames before the present one that are kept, beside the first.
        temperature: similarities are divided by it.
        guidance: ``grid`` guides by the frame brought to the size of the output, as published; ``frame`` by the frame
            as the backbone sees it.
        length: use only so many frames of each video, from its start; 0 for all.
        videos: names of those to use; none means all that the data set lists.
    """

    size: int | None = 448
    factor: int = 2
    topk: int = 20
    radius: int = 24
    context: int = 7
    temperature: float = 0.1
    guidance: str = "grid"
    length: int = 0
    videos: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        positive = (
            ("factor", "topk", "context") if self.size is None else ("size", "factor", "topk", "context")
        )
        for name in positive:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.radius < 0:
            raise ValueError(f"radius must not be negative, got {self.radius}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0.02):
            # exp(1 / 0.011) leaves float32
            raise ValueError(f"temperature must be at least 0.02, got {self.temperature}")
        if self.guidance not in GUIDES:
            raise ValueError(f"guidance must be {' or '.join(GUIDES)}, got {self.guidance!r}")
        if self.length != 0 and self.length < 3:
            raise ValueError(
                f"length must be 0 or at least 3 (first and last are not scored), got {self.length}"
            )

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> VideoProtocol:
        """The protocol of plain settings, over those of ``preset`` (``paper`` where none is named).

        Raises:
            ValueError: a setting or preset that does not exist, or a value that makes no sense.
        """
        own = dict(settings)
        preset = own.pop("preset", "paper")
        if not isinstance(preset, str) or preset not in PRESETS:
            raise ValueError(f"no preset {preset!r}; there are: {', '.join(PRESETS)}")
        return build(cls, PRESETS[preset], own)

    def working_size(self, frame: tuple[int, int], patch: int) -> tuple[int, int]:
        """Height and width at which the backbone sees a frame of this height and width.

        Raises:
            ValueError: less than one patch.
        """
        sides = frame if self.size is None else (self.size, self.size)
        height, width = (side // patch * patch for side in sides)
        if not (height and width):
            raise ValueError(
                f"frames of {sides[0]}x{sides[1]} pixels are smaller than the backbone's patch of {patch}"
            )
        return height, width

"""What decides the figures of open-vocabulary segmentation."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from naf_hub.training.settings import build

OPENAI_CLIP = "hf://timm/vit_base_patch16_clip_224.openai"
"""CLIP ViT-B/16 with OpenAI's weights, as safetensors in OpenCLIP's layout."""

PRESETS: Mapping[str, tuple[int, int, int]] = MappingProxyType(
    {
        "naf": (448, 448, 224),
        "proxyclip": (336, 336, 112),
        "proxyclip-ade20k": (448, 336, 112),
        "proxyclip-cityscapes": (448, 224, 112),
    }
)
"""Short side of the picture, side of a window and stride. NAF's paper states 448 x 448 and no stride: 224 is ours."""


@dataclasses.dataclass(frozen=True)
class VocabularyProtocol:
    """What decides the figures.

    Attributes:
        clip: see :func:`naf_hub_open_vocabulary.clip.load_clip`.
        classes: see :meth:`naf_hub_open_vocabulary.vocabulary.Vocabulary.parse`; ``None`` takes those of the data.
        preset: name in :data:`PRESETS`, for what of the next three is ``None``.
        short_side, crop, stride: pixels.
        long_side: the picture's long side is at most so many pixels.
        scale: features are upsampled so many times; ``None`` makes a cell of about every 4 pixels: 4 times for
            patches of 14 and 16, as published (NAF paper, section B.2).
        beta, gamma: of the proxy attention.
        temperature: what cosines are multiplied by before the softmax over queries.
        threshold: below it a pixel is the first class; ``None`` takes the vocabulary's.
        limit: use only so many pictures, evenly spread; 0 for all.
    """

    clip: str = OPENAI_CLIP
    classes: str | None = None
    preset: str = "naf"
    short_side: int | None = None
    crop: int | None = None
    stride: int | None = None
    long_side: int = 2048
    scale: int | None = None
    beta: float = 1.2
    gamma: float = 3.0
    temperature: float = 40.0
    threshold: float | None = None
    limit: int = 0

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> VocabularyProtocol:
        """The protocol of plain settings, with the numbers of its preset filled in.

        Raises:
            ValueError: a setting that does not exist or makes no sense.
        """
        chosen = build(cls, settings)
        if chosen.preset not in PRESETS:
            raise ValueError(f"no preset {chosen.preset!r}; there are: {', '.join(PRESETS)}")
        own = (chosen.short_side, chosen.crop, chosen.stride)
        short, crop, stride = (
            preset if value is None else value
            for value, preset in zip(own, PRESETS[chosen.preset], strict=True)
        )
        chosen = dataclasses.replace(chosen, short_side=short, crop=crop, stride=stride)
        for name in ("short_side", "crop", "stride", "long_side", "scale", "gamma", "temperature"):
            value = getattr(chosen, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        if stride > crop:
            raise ValueError(
                f"stride {stride} is larger than crop {crop}: pixels between windows would be left out"
            )
        if chosen.limit < 0 or not 0 <= (chosen.threshold or 0) <= 1:
            raise ValueError("limit must not be negative, threshold must lie within 0 and 1")
        return chosen

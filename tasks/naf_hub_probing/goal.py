"""What the heads of a task learn, and how they are scored."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from naf_hub import Upsampler
from naf_hub.terminal import progress_bar

from .course import Objective
from .head import HeadWeights, upsampled_scores
from .pairs import LabelledImage, Pairs
from .splits import Splits


class Goal(abc.ABC):
    """What the heads of a task learn, and how they are scored.

    Attributes:
        train, val: the pairs to learn from and to score on.
        outputs: channels of a head.
        objective: the loss.
        facts: about the data, for the report.
    """

    train: Pairs
    val: Pairs
    outputs: int
    objective: Objective
    facts: Mapping[str, Any]

    @abc.abstractmethod
    def meter(self) -> Any:
        """What collects the scores of one head."""

    @abc.abstractmethod
    def add(self, meters: Sequence[Any], scores: Iterator[Tensor], sample: LabelledImage) -> None:
        """Add one picture: the scores (1, K, H, W) of each head, at the size of the label."""

    @abc.abstractmethod
    def figures(self, meter: Any) -> dict[str, Any]:
        """What a meter shows: figures by name, ``None`` where there is none, or further ones under a name."""

    def show(self, meters: Sequence[Any]) -> Image.Image | None:
        """A few predictions to look at, meters of its heads being given; ``None`` where there is nothing to see."""
        return None


@torch.no_grad()
def score(
    upsampler: Upsampler, heads: Sequence[HeadWeights], splits: Splits, goal: Goal, label: str
) -> list[Any]:
    """Meters of several heads over the validation split, in one pass.

    Scoring them together costs one call of the upsampler a picture, not one a picture and head.
    """
    meters = [goal.meter() for _ in heads]
    device = splits.cache.device
    loader = DataLoader(
        splits.val,
        batch_sampler=[[p] for p in splits.seen["val"].usable],
        collate_fn=list,
        num_workers=splits.workers,
    )
    for samples in progress_bar(loader, desc=f"evaluate: {label}", unit="image"):
        sample: LabelledImage = samples[0]
        features = splits.cache("val", samples)
        image, target = sample.image.to(device), sample.label.to(device)
        size = (target.shape[0], target.shape[1])
        scores = upsampled_scores(upsampler, image[None], features, size, heads)
        goal.add(meters, scores, LabelledImage(sample.position, image, target))
    return meters

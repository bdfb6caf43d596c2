"""What a head is trained on: every pixel, upsampled anew at each step, or a few pixels kept of each picture."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader

from naf_hub import Upsampler
from naf_hub.interfaces import Features
from naf_hub.labels import IGNORE
from naf_hub.store import each_map, maps_in
from naf_hub.terminal import progress_bar
from naf_hub.training.facts import describe_files, fingerprint
from naf_hub.training.interrupts import leave_signals_to_parent

from .features import SplitFeatures
from .head import LinearHead, upsampled_scores
from .pairs import LabelledImage, Pairs

Pictures = tuple[list[int], bool]
"""Positions of the pictures of a batch, and whether they are mirrored."""
HALF_LIMIT = 6e4


class Material(Protocol):
    """What a head is trained on."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a continued run must share: plain JSON data."""
        ...

    def load(self, order: Sequence[Pictures], start: int) -> Iterator[Any]:
        """What :meth:`score` needs of each batch of ``order`` from number ``start`` on, in turn."""
        ...

    def score(self, head: LinearHead, content: Any) -> tuple[Tensor, Tensor]:
        """Scores (B, K, ...), differentiable in the head, and target (B, ...) of a batch."""
        ...


def _load(pairs: Pairs, order: list[list[int]], workers: int) -> DataLoader[LabelledImage]:
    return DataLoader(
        pairs,
        batch_sampler=order,
        collate_fn=list,
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),  # else it draws from the global generator
    )


def _facts(upsampler: Upsampler, pairs: Pairs, cache: SplitFeatures) -> dict[str, Any]:
    return {
        "upsampler": fingerprint(upsampler),
        "backbone": fingerprint(cache.backbone),
        "use of --cache float16": cache.store.precision == "float16",
        "list of pictures": describe_files(pairs.files),
        **pairs.facts,
    }


class AllPixels:
    """The published protocol: scores of every pixel of the batch, upsampled anew at each step."""

    def __init__(self, upsampler: Upsampler, pairs: Pairs, cache: SplitFeatures, workers: int) -> None:
        self.upsampler, self.pairs, self.cache, self.workers = upsampler, pairs, cache, workers
        self.facts = _facts(upsampler, pairs, cache)

    def load(self, order: Sequence[Pictures], start: int) -> Iterator[tuple[list[LabelledImage], bool]]:
        """The pictures of each batch, and whether they are mirrored."""
        self._refill(order[:start])
        batches = order[start:]
        loader = _load(self.pairs, [positions for positions, _ in batches], self.workers)
        for pictures, (_, flipped) in zip(loader, batches, strict=True):
            yield pictures, flipped  # pyright: ignore[reportReturnType]

    def _refill(self, done: Sequence[Pictures]) -> None:
        """Keep the mirrored features again that the batches ``done`` had kept, each computed with the same others.

        A backbone rounds differently with other pictures beside one, so that features computed in the batch
        where a continued run first meets them would not be those of an uninterrupted run.
        """
        if self.cache.store.precision == "off":
            return
        seen: set[int] = set()
        groups: list[list[int]] = []
        for positions, flipped in done:
            if flipped and not seen.issuperset(positions):
                seen.update(positions)
                groups.append(positions)
        for pictures in _load(self.pairs, groups, self.workers):
            self.cache("train", pictures, True)  # pyright: ignore[reportArgumentType]

    def score(self, head: LinearHead, content: tuple[list[LabelledImage], bool]) -> tuple[Tensor, Tensor]:
        """See :func:`batch_scores`."""
        pictures, flipped = content
        features = self.cache("train", pictures, flipped)
        return batch_scores(head, self.upsampler, pictures, features, flipped)


class SampledPixels:
    """The fast protocol: features of random labelled pixels, kept of each picture; see :func:`sample_pixels`.

    Args:
        facts: see :class:`Material`.
        device: where scores are computed.
    """

    def __init__(self, facts: Mapping[str, Any], device: torch.device) -> None:
        self.facts, self.device = facts, device
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}

    def load(self, order: Sequence[Pictures], start: int) -> Iterator[list[int]]:
        """The positions of the pictures of each batch."""
        return (positions for positions, _ in order[start:])

    def score(self, head: LinearHead, content: list[int]) -> tuple[Tensor, Tensor]:
        """Scores (N, K) and target (N,) of the N pixels kept of the pictures."""
        features = torch.cat([self.kept[p][0].to(self.device).float() for p in content])
        target = torch.cat([self.kept[p][1] for p in content]).to(self.device)
        weight, bias = head.folded()
        return F.linear(features, weight, bias), target


def sample_pixels(
    upsampler: Upsampler,
    pairs: Pairs,
    positions: list[int],
    cache: SplitFeatures,
    count: int,
    seeds: Sequence[int],
    name: str,
    workers: int,
) -> list[SampledPixels]:
    """Upsample each picture once and keep, for each seed, at most ``count`` of its labelled pixels.

    Args:
        upsampler, cache: give the features.
        pairs, positions: the pictures.
        count: pixels a picture.
        seeds: each draws its own pixels.
        name: of what is probed, for the progress bar.
        workers: processes that read pictures.
    """
    facts = _facts(upsampler, pairs, cache)
    found = [SampledPixels(facts, cache.device) for _ in seeds]
    loader = _load(pairs, [[p] for p in positions], workers)
    for pictures in progress_bar(loader, desc=f"upsample: {name}", unit="image"):
        picture: LabelledImage = pictures[0]
        features = cache("train", pictures)
        size = (picture.label.shape[0], picture.label.shape[1])
        with torch.no_grad():
            upsampled = upsampler(picture.image[None].to(cache.device), features, size)[0].flatten(1)
        for seed, one in zip(seeds, found, strict=True):
            chosen = choose_pixels(picture.label, count, seed + picture.position)
            pixels = upsampled[:, chosen.to(cache.device)].T.contiguous().cpu()
            small = pixels.abs().amax() < HALF_LIMIT if pixels.numel() else True
            one.kept[picture.position] = (pixels.half() if small else pixels, picture.label.flatten()[chosen])
    return found


def batch_scores(
    head: LinearHead, upsampler: Upsampler, samples: list[LabelledImage], features: Features, flipped: bool
) -> tuple[Tensor, Tensor]:
    """Scores (B, K, H, W) and target (B, H, W); flattened to one row where label sizes differ."""
    device = maps_in(features)[0].device
    images = torch.stack([sample.image for sample in samples]).to(device)
    labels = [sample.label.to(device) for sample in samples]
    if flipped:
        images, labels = images.flip(-1), [label.flip(-1) for label in labels]
    weights = head.folded()
    if len({label.shape for label in labels}) == 1:
        size = (labels[0].shape[0], labels[0].shape[1])
        return next(upsampled_scores(upsampler, images, features, size, [weights])), torch.stack(labels)
    rows = []
    for i, label in enumerate(labels):
        size = (label.shape[0], label.shape[1])
        own = each_map(lambda found, i=i: found[i : i + 1], features)
        scores = next(upsampled_scores(upsampler, images[i : i + 1], own, size, [weights]))
        rows.append(scores.flatten(2))
    return torch.cat(rows, 2), torch.cat([label.flatten() for label in labels])[None]


def choose_pixels(label: Tensor, count: int, seed: int) -> Tensor:
    """Flat indices of at most ``count`` labelled pixels, without replacement, in a random order."""
    labelled = (label.flatten() != IGNORE).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    return labelled[torch.randperm(len(labelled), generator=generator)[:count]]

"""Training of the head: AdamW, cosine to zero every iteration, cross entropy over valid pixels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from naf_hub import Upsampler
from naf_hub.interfaces import Features
from naf_hub.store import each_map, maps_in

from .features import SplitFeatures
from .folders import IGNORE, Sample, SegmentationFolder
from .head import LinearHead, Weights, upsampled_scores

Batch = tuple[list[int], bool]
"""Positions of the pictures, and whether they are mirrored."""
HALF_LIMIT = 6e4


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the head is trained; the defaults are the published script's.

    Attributes:
        epochs, batch_size, lr, weight_decay: the last, incomplete batch of an epoch is kept.
        seed: of initialisation, order, mirroring and pixel choice.
        flip: mirror a whole batch with probability 0.5 (all-pixel training only).
        train_pixels: train on that many random labelled pixels a picture, drawn once, instead of all.
    """

    epochs: int = 20
    batch_size: int = 2
    lr: float = 5e-4
    weight_decay: float = 1e-5
    seed: int = 0
    flip: bool = True
    train_pixels: int | None = None

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "train_pixels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(f"lr must be positive, got {self.lr}")


class HeadOptimizer:
    """AdamW with betas (0.9, 0.999) and eps 1e-8; lr of step k is lr / 2 * (1 + cos(pi k / total))."""

    def __init__(
        self, head: LinearHead, total_steps: int, lr: float = 5e-4, weight_decay: float = 1e-5
    ) -> None:
        self.lr = lr
        self.total_steps = total_steps
        self.taken = 0
        self.adamw = torch.optim.AdamW(
            head.conv.parameters(), lr=lr, betas=(0.9, 0.999), eps=1e-8, weight_decay=weight_decay
        )

    def current_lr(self) -> float:
        """Learning rate of the coming step; 0 after the last."""
        return self.lr / 2 * (1 + math.cos(math.pi * self.taken / self.total_steps))

    def step(self, scores: Tensor, target: Tensor) -> float | None:
        """One step on scores (B, K, ...) and target (B, ...); returns the loss.

        A batch without a valid pixel has no mean loss: the head stays, the schedule moves on, ``None``.
        """
        lr, self.taken = self.current_lr(), self.taken + 1
        if not bool((target != IGNORE).any()):
            return None
        for group in self.adamw.param_groups:
            group["lr"] = lr
        loss = F.cross_entropy(scores, target, ignore_index=IGNORE)
        self.adamw.zero_grad()
        loss.backward()
        self.adamw.step()
        return float(loss.detach())


def plan(positions: list[int], recipe: Recipe) -> list[list[Batch]]:
    """The batches of every epoch: a function of the seed alone, hence equal for all upsamplers compared."""
    generator = torch.Generator().manual_seed(recipe.seed)
    epochs: list[list[Batch]] = []
    for _ in range(recipe.epochs):
        order = [positions[i] for i in torch.randperm(len(positions), generator=generator)]
        batches = [order[i : i + recipe.batch_size] for i in range(0, len(order), recipe.batch_size)]
        coins = (torch.rand(len(batches), generator=generator) < 0.5).tolist()
        epochs.append([(batch, recipe.flip and coin) for batch, coin in zip(batches, coins, strict=True)])
    return epochs


def fit(
    head: LinearHead,
    epochs: list[list[Batch]],
    scored: Callable[[list[Batch]], Iterator[tuple[Tensor, Tensor]]],
    recipe: Recipe,
    name: str,
) -> tuple[list[Weights], list[float]]:
    """Train; returns the head for raw features after every epoch, and the mean loss of every epoch.

    ``scored`` turns the batches of an epoch into (scores, target), lazily, with the head as it then is.
    """
    optimizer = HeadOptimizer(head, sum(map(len, epochs)), recipe.lr, recipe.weight_decay)
    snapshots: list[Weights] = []
    losses: list[float] = []
    with tqdm(total=optimizer.total_steps, desc=f"probe: {name}", disable=None, unit="step") as bar:
        for batches in epochs:
            steps = []
            for scores, target in scored(batches):
                loss = optimizer.step(scores, target)
                if loss is not None:
                    steps.append(loss)
                bar.update()
            losses.append(sum(steps) / len(steps) if steps else math.nan)
            bar.set_postfix(epoch=len(losses), loss=f"{losses[-1]:.4f}")
            with torch.no_grad():
                weight, bias = head.folded()
            snapshots.append((weight.detach().clone(), bias.detach().clone()))
    return snapshots, losses


def all_pixels(
    head: LinearHead, upsampler: Upsampler, folder: SegmentationFolder, cache: SplitFeatures, workers: int
) -> Callable[[list[Batch]], Iterator[tuple[Tensor, Tensor]]]:
    """The published protocol: scores of every pixel of the batch, upsampled anew at each step."""

    def scored(batches: list[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        order = [positions for positions, _ in batches]
        loader = DataLoader(folder, batch_sampler=order, collate_fn=list, num_workers=workers)
        for samples, (_, flipped) in zip(loader, batches, strict=True):
            yield batch_scores(head, upsampler, samples, cache("train", samples, flipped), flipped)

    return scored


def batch_scores(
    head: LinearHead, upsampler: Upsampler, samples: list[Sample], features: Features, flipped: bool
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


def sampled_pixels(
    head: LinearHead,
    upsampler: Upsampler,
    folder: SegmentationFolder,
    positions: list[int],
    cache: SplitFeatures,
    recipe: Recipe,
    name: str,
    workers: int,
) -> Callable[[list[Batch]], Iterator[tuple[Tensor, Tensor]]]:
    """The fast protocol: each picture is upsampled once; features of random labelled pixels are kept."""
    assert recipe.train_pixels is not None
    kept: dict[int, tuple[Tensor, Tensor]] = {}
    loader = DataLoader(folder, batch_sampler=[[p] for p in positions], collate_fn=list, num_workers=workers)
    for samples in tqdm(loader, desc=f"upsample: {name}", disable=None, unit="image"):
        sample: Sample = samples[0]
        features = cache("train", samples)
        size = (sample.label.shape[0], sample.label.shape[1])
        chosen = choose_pixels(sample.label, recipe.train_pixels, recipe.seed + sample.position)
        with torch.no_grad():
            upsampled = upsampler(sample.image[None].to(cache.device), features, size)
            if upsampled.shape[-2:] != size:
                upsampled = F.interpolate(upsampled, size, mode="bilinear", align_corners=False)
            pixels = upsampled[0].flatten(1)[:, chosen.to(cache.device)].T.contiguous().cpu()
        small = pixels.abs().amax() < HALF_LIMIT if pixels.numel() else True
        kept[sample.position] = (pixels.half() if small else pixels, sample.label.flatten()[chosen])

    def scored(batches: list[Batch]) -> Iterator[tuple[Tensor, Tensor]]:
        for batch, _ in batches:
            features = torch.cat([kept[p][0].to(cache.device).float() for p in batch])
            target = torch.cat([kept[p][1] for p in batch]).to(cache.device)
            weight, bias = head.folded()
            yield F.linear(features, weight, bias), target

    return scored


def choose_pixels(label: Tensor, count: int, seed: int) -> Tensor:
    """Flat indices of at most ``count`` labelled pixels, without replacement, in a random order."""
    labelled = (label.flatten() != IGNORE).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    return labelled[torch.randperm(len(labelled), generator=generator)[:count]]

"""Training of the head: AdamW, cosine to zero over all steps, cross entropy over valid pixels."""

from __future__ import annotations

import dataclasses
import math
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from naf_hub import Upsampler
from naf_hub.training.course import Batch, Examination, Share
from naf_hub.training.facts import describe_files, fingerprint
from naf_hub.training.interrupts import leave_signals_to_parent
from naf_hub.training.processes import Processes
from naf_hub.training.run import Run
from naf_hub.training.settings import RunSettings

from .features import FeatureCache
from .folders import IGNORE, LabelledImage, SegmentationFolder
from .head import HeadWeights, LinearHead, upsampled_scores

Pictures = tuple[list[int], bool]
"""Positions of the pictures of a batch, and whether they are mirrored."""
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


def plan_epochs(positions: list[int], recipe: Recipe) -> list[list[Pictures]]:
    """The batches of every epoch: a function of the seed alone, hence equal for all upsamplers compared."""
    generator = torch.Generator().manual_seed(recipe.seed)
    epochs: list[list[Pictures]] = []
    for _ in range(recipe.epochs):
        order = [positions[i] for i in torch.randperm(len(positions), generator=generator)]
        batches = [order[i : i + recipe.batch_size] for i in range(0, len(order), recipe.batch_size)]
        coins = (torch.rand(len(batches), generator=generator) < 0.5).tolist()
        epochs.append([(batch, recipe.flip and coin) for batch, coin in zip(batches, coins, strict=True)])
    return epochs


class Material(Protocol):
    """What a head is trained on."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a continued run must share: plain JSON data."""
        ...

    def load(self, batches: Sequence[Pictures]) -> Iterator[Any]:
        """What :meth:`score` needs of each batch, in turn."""
        ...

    def score(self, head: LinearHead, content: Any) -> tuple[Tensor, Tensor]:
        """Scores (B, K, ...), differentiable in the head, and target (B, ...) of a batch."""
        ...


class HeadCourse:
    """A linear head as a course, see :class:`naf_hub.training.course.Course`.

    Args:
        head: to be trained; it is changed.
        epochs: see :func:`plan_epochs`.
        material: gives scores and targets.
        recipe: learning rate and so on.

    An examination keeps the head for raw features, weight (K, C) and bias (K,), after every epoch.
    """

    advice = "take a smaller --lr"
    model: nn.Module

    def __init__(
        self, head: LinearHead, epochs: list[list[Pictures]], material: Material, recipe: Recipe
    ) -> None:
        self.head, self.material = head, material
        self.order = [pictures for batches in epochs for pictures in batches]
        steps = len(epochs[0])
        self.settings = RunSettings(
            steps=len(self.order),
            batch=recipe.batch_size,
            lr=recipe.lr,
            weight_decay=recipe.weight_decay,
            schedule="cosine",
            seed=recipe.seed,
            eval_every=steps,
            checkpoint_every=steps,
            preview_every=0,
        )
        self.about = {"method": "linear probe"}
        self.facts = {"recipe": dataclasses.asdict(recipe), **material.facts}

    def prepare(self, device: torch.device, share: Share) -> None:
        """Take the head as it is."""
        self.model = self.head

    def batches(self, start: int, stop: int, share: Share) -> Iterator[Batch]:
        """One batch of pictures a step."""
        yield from map(Batch, self.material.load(self.order[start:stop]))

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Tensor | None:
        """Cross entropy over the valid pixels; ``None`` where there are none."""
        scores, target = self.material.score(self.head, batch.content)
        if not bool((target != IGNORE).any()):
            return None
        return F.cross_entropy(scores, target, ignore_index=IGNORE)

    def examine(self, model: nn.Module, step: int) -> Examination:
        """Nothing is measured yet: the heads of all epochs are scored together afterwards."""
        weight, bias = self.head.folded()
        return Examination(kept={"weight": weight, "bias": bias})

    def export(self, model: nn.Module) -> None:
        """Nothing: a head is written with its score, not as weights of a registered model."""

    def card(self, summary: Mapping[str, Any]) -> str:
        """Empty, since nothing is exported."""
        return ""


def run_folder(out: Path, name: str) -> Path:
    """Where the run of an upsampler's head keeps its log, and its checkpoints until it is scored."""
    return out / (re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-") + "-run")


def fit(
    course: HeadCourse, device: torch.device, name: str, out: Path | None = None
) -> tuple[list[HeadWeights], list[float]]:
    """Train; returns the head for raw features after every epoch, and the mean loss of every epoch.

    Args:
        course: what is trained.
        device: where.
        name: of what is probed.
        out: folder of the run; one that was interrupted there goes on. ``None`` writes nothing.

    Raises:
        ConfigError: what was interrupted in ``out`` was another run.
    """
    title = f"probe: {name}"
    run = Run(course, out, resume=True, processes=Processes(device), title=title)
    run.run()
    examined = run.results.examined
    snapshots = [(one.kept["weight"].to(device), one.kept["bias"].to(device)) for one in examined]
    return snapshots, [math.nan if one.loss is None else one.loss for one in examined]


def forget_checkpoints(out: Path) -> None:
    """Remove the checkpoints of a run whose results are written, so that the next one starts anew."""
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _load(folder: SegmentationFolder, order: list[list[int]], workers: int) -> DataLoader[LabelledImage]:
    return DataLoader(
        folder,
        batch_sampler=order,
        collate_fn=list,
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),  # else it draws from the global generator
    )


def _facts(upsampler: Upsampler, folder: SegmentationFolder, cache: FeatureCache) -> dict[str, Any]:
    return {
        "upsampler": fingerprint(upsampler),
        "backbone": fingerprint(cache.backbone),
        "use of --cache float16": cache.precision == "float16",
        "list of pictures": describe_files(path for pair in folder.pairs for path in pair),
        "sizes of the pictures": str(folder.geometry),
        "classes": list(folder.classes.names),
    }


class AllPixels:
    """The published protocol: scores of every pixel of the batch, upsampled anew at each step."""

    def __init__(
        self, upsampler: Upsampler, folder: SegmentationFolder, cache: FeatureCache, workers: int
    ) -> None:
        self.upsampler, self.folder, self.cache, self.workers = upsampler, folder, cache, workers
        self.facts = _facts(upsampler, folder, cache)

    def load(self, batches: Sequence[Pictures]) -> Iterator[tuple[list[LabelledImage], bool]]:
        """The pictures of each batch, and whether they are mirrored."""
        loader = _load(self.folder, [positions for positions, _ in batches], self.workers)
        for pictures, (_, flipped) in zip(loader, batches, strict=True):
            yield pictures, flipped  # pyright: ignore[reportReturnType]

    def score(self, head: LinearHead, content: tuple[list[LabelledImage], bool]) -> tuple[Tensor, Tensor]:
        """See :func:`batch_scores`."""
        pictures, flipped = content
        features = self.cache("train", pictures, flipped)
        return batch_scores(head, self.upsampler, pictures, features, flipped)


class SampledPixels:
    """The fast protocol: each picture is upsampled once; features of random labelled pixels are kept."""

    def __init__(
        self,
        upsampler: Upsampler,
        folder: SegmentationFolder,
        positions: list[int],
        cache: FeatureCache,
        recipe: Recipe,
        name: str,
        workers: int,
    ) -> None:
        assert recipe.train_pixels is not None
        self.device = cache.device
        self.facts = _facts(upsampler, folder, cache)
        self.kept: dict[int, tuple[Tensor, Tensor]] = {}
        loader = _load(folder, [[p] for p in positions], workers)
        for pictures in tqdm(loader, desc=f"upsample: {name}", disable=None, unit="image"):
            picture: LabelledImage = pictures[0]
            features = cache("train", pictures)
            size = (picture.label.shape[0], picture.label.shape[1])
            chosen = choose_pixels(picture.label, recipe.train_pixels, recipe.seed + picture.position)
            with torch.no_grad():
                upsampled = upsampler(picture.image[None].to(cache.device), features, size)
                if upsampled.shape[-2:] != size:
                    upsampled = F.interpolate(upsampled, size, mode="bilinear", align_corners=False)
                pixels = upsampled[0].flatten(1)[:, chosen.to(cache.device)].T.contiguous().cpu()
            small = pixels.abs().amax() < HALF_LIMIT if pixels.numel() else True
            self.kept[picture.position] = (
                pixels.half() if small else pixels,
                picture.label.flatten()[chosen],
            )

    def load(self, batches: Sequence[Pictures]) -> Iterator[list[int]]:
        """The positions of the pictures of each batch."""
        return (positions for positions, _ in batches)

    def score(self, head: LinearHead, content: list[int]) -> tuple[Tensor, Tensor]:
        """Scores (N, K) and target (N,) of the N pixels kept of the pictures."""
        features = torch.cat([self.kept[p][0].to(self.device).float() for p in content])
        target = torch.cat([self.kept[p][1] for p in content]).to(self.device)
        weight, bias = head.folded()
        return F.linear(features, weight, bias), target


def batch_scores(
    head: LinearHead, upsampler: Upsampler, samples: list[LabelledImage], features: Tensor, flipped: bool
) -> tuple[Tensor, Tensor]:
    """Scores (B, K, H, W) and target (B, H, W); flattened to one row where label sizes differ."""
    device = features.device
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
        scores = next(upsampled_scores(upsampler, images[i : i + 1], features[i : i + 1], size, [weights]))
        rows.append(scores.flatten(2))
    return torch.cat(rows, 2), torch.cat([label.flatten() for label in labels])[None]


def choose_pixels(label: Tensor, count: int, seed: int) -> Tensor:
    """Flat indices of at most ``count`` labelled pixels, without replacement, in a random order."""
    labelled = (label.flatten() != IGNORE).nonzero()[:, 0]
    generator = torch.Generator().manual_seed(seed)
    return labelled[torch.randperm(len(labelled), generator=generator)[:count]]

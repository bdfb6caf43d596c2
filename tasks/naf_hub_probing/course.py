"""Training of the head: AdamW, cosine to zero over all steps."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from naf_hub.escapes import plain_name
from naf_hub.labels import IGNORE
from naf_hub.training.checkpoints import forget
from naf_hub.training.course import Batch, Examination, Share
from naf_hub.training.processes import Processes
from naf_hub.training.run import Run
from naf_hub.training.settings import RunSettings

from .head import HeadWeights, LinearHead
from .material import Material, Pictures


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
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must not be negative, got {self.weight_decay}")


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


class Objective(Protocol):
    """What a head is to make small."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What a continued run must share: plain JSON data."""
        ...

    def __call__(self, scores: Tensor, target: Tensor) -> Tensor | None:
        """Loss of scores (B, K, ...) for a target (B, ...); ``None`` where the target says nothing."""
        ...


class CrossEntropy:
    """Cross entropy over the valid pixels of a batch."""

    facts: Mapping[str, Any] = {}

    def __call__(self, scores: Tensor, target: Tensor) -> Tensor | None:
        """See :class:`Objective`; the target holds classes."""
        if not bool((target != IGNORE).any()):
            return None
        return F.cross_entropy(scores, target, ignore_index=IGNORE)


class HeadCourse:
    """A linear head as a course, see :class:`naf_hub.training.course.Course`.

    Args:
        head: to be trained; it is changed.
        epochs: see :func:`plan_epochs`.
        material: gives scores and targets.
        recipe: learning rate and so on.
        objective: the loss.

    An examination keeps the head for raw features, weight (K, C) and bias (K,), after every epoch.
    """

    advice = "take a smaller --lr"
    model: nn.Module

    def __init__(
        self,
        head: LinearHead,
        epochs: list[list[Pictures]],
        material: Material,
        recipe: Recipe,
        objective: Objective | None = None,
    ) -> None:
        self.head, self.material = head, material
        self.objective = objective or CrossEntropy()
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
        self.facts = {"recipe": dataclasses.asdict(recipe), **material.facts, **self.objective.facts}

    def prepare(self, device: torch.device, share: Share) -> None:
        """Take the head as it is."""
        self.model = self.head

    def batches(self, start: int, stop: int, share: Share) -> Iterator[Batch]:
        """One batch of pictures a step."""
        yield from map(Batch, self.material.load(self.order[:stop], start))

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Tensor | None:
        """Loss of a batch; ``None`` where nothing is known of its pixels."""
        return self.objective(*self.material.score(self.head, batch.content))

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
    return out / f"{plain_name(name)}-run"


def fit(
    course: HeadCourse,
    device: torch.device,
    name: str,
    out: Path | None = None,
    allow_changed_images: bool = False,
) -> tuple[list[HeadWeights], list[float]]:
    """Train; returns the head for raw features after every epoch, and the mean loss of every epoch.

    Args:
        course: what is trained.
        device: where.
        name: of what is probed.
        out: folder of the run; one that was interrupted there goes on. ``None`` writes nothing.
        allow_changed_images: go on although pictures were replaced under their names since.

    Raises:
        ConfigError: what was interrupted in ``out`` was another run.
    """
    title = f"probe: {name}"
    run = Run(
        course,
        out,
        resume=True,
        allow_changed_images=allow_changed_images,
        processes=Processes(device),
        title=title,
    )
    run.run()
    examined = run.results.examined
    snapshots = [(one.kept["weight"].to(device), one.kept["bias"].to(device)) for one in examined]
    return snapshots, [math.nan if one.loss is None else one.loss for one in examined]


def forget_checkpoints(out: Path) -> None:
    """Remove the checkpoints of a run whose results are written, so that the next one starts anew."""
    forget(out / "checkpoints")

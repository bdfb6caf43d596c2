"""Pico's distillation as a course: its features, through a linear head, are regressed on a teacher's."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import naf_hub
from naf_hub.escapes import code
from naf_hub.image_files import find_training_images
from naf_hub.reports import amount
from naf_hub.training.card import hardware_section, training_section
from naf_hub.training.course import Batch, Examination, Export, Share
from naf_hub.training.facts import describe_files, fingerprint
from naf_hub.training.settings import RunSettings, Schedule, require

from .network import Pico
from .views import ViewPool, on_pico_grid

# A channel that hardly ever fires has no useful standardised target.
SMALLEST_DEVIATION = 1e-3


@dataclasses.dataclass(frozen=True)
class DistillSettings(RunSettings):
    """What decides a distillation, beside what decides every run. Lengths are image pixels.

    Attributes:
        teacher, teacher_weights, teacher_options: for :func:`naf_hub.load_backbone`; of any patch size.
        images: files, folders or patterns.
        crop_size: side of the random crops, a multiple of 16.
        sides: range of the short side that images are scaled to.
        pool, prefill, renew: number of views held, of views before the first step, and of new views a step.
    """

    teacher: str = "timm:vit_small_patch14_dinov2"
    teacher_weights: str | None = None
    teacher_options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    images: tuple[str, ...] = ()
    crop_size: int = 192
    sides: tuple[int, ...] = (224, 448)
    pool: int = 1536
    prefill: int = 128
    renew: float = 0.5
    steps: int = 6000
    batch: int = 8
    lr: float = 3e-3
    weight_decay: float = 0.02
    decay_vectors: bool = False
    schedule: Schedule = "plateau"
    grad_clip: float = 5.0
    ema: float = 0.998
    log_every: int = 1
    preview_every: int = 0
    checkpoint_every: int = 250

    # On the plateau of the rate, the steps done do not depend on how many are to come.
    free_to_change: ClassVar[frozenset[str]] = RunSettings.free_to_change | {"steps"}

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.pool >= 1, "pool", self.pool, "must be at least 1")
        require(self.prefill >= 1, "prefill", self.prefill, "must be at least 1")
        require(self.renew >= 0, "renew", self.renew, "must not be negative")
        require(len(self.sides) == 2, "sides", self.sides, "must be [low, high]")


class Student(nn.Module):
    """Pico, the linear head to the teacher's channels, and the statistics that standardise those.

    Args:
        channels: C of the teacher.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pico = Pico()
        self.head = nn.Conv2d(self.pico.embed_dim, channels, 1)
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("std", torch.ones(channels))

    def forward(self, images: Tensor) -> Tensor:
        """The teacher's standardised features (B, C, h, w), as guessed from images (B, 3, 16h, 16w) in [0, 1]."""
        return self.head(self.pico(images))

    def standardise(self, features: Tensor) -> Tensor:
        """Teacher features (B, C, h, w), channel by channel; a dead channel becomes zero."""
        std = self.std.view(1, -1, 1, 1)
        target = (features - self.mean.view(1, -1, 1, 1)) / std.clamp_min(SMALLEST_DEVIATION)
        return torch.where(std < SMALLEST_DEVIATION, 0.0, target)


def distillation_loss(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Loss, and the share of the target's variance left unexplained, of (B, C, h, w) standardised features.

    Huber instead of squares: rarely active channels have standardised values beyond 20, which would
    otherwise dominate. The cosine term weighs all cells alike.
    """
    huber = F.huber_loss(prediction, target, delta=3.0)
    cosine = 1 - F.cosine_similarity(prediction, target, dim=1).mean()
    with torch.no_grad():
        unexplained = (prediction - target).square().mean() / target.square().mean().clamp_min(1e-12)
    return huber + 0.5 * cosine, unexplained


class Distillation:
    """See :class:`naf_hub.training.course.Course`.

    Of the teacher only the output is used: the student starts from random weights.

    Args:
        settings: what to compute.
        out: folder of the run, whose pictures are not trained on.
    """

    advice = "take a smaller --lr"
    model: Student

    def __init__(self, settings: DistillSettings, out: str | os.PathLike[str] | None = None) -> None:
        self.settings, self.out = settings, out
        self.facts: dict[str, Any] = {}
        self.about: dict[str, Any] = {}

    def prepare(self, device: torch.device, share: Share) -> None:
        """Find the images, load the teacher.

        Raises:
            FileNotFoundError, ValueError: no images, or a crop size that is no multiple of 16.
        """
        settings = self.settings
        paths = find_training_images(settings.images, self.out)
        options = dict(settings.teacher_options)
        teacher = naf_hub.load_backbone(settings.teacher, weights=settings.teacher_weights, **options)
        teacher = teacher.to(device).eval()
        self.device = device
        per_step = settings.batch * settings.accumulate * share.processes
        self.views = ViewPool(
            paths,
            on_pico_grid(teacher),
            capacity=settings.pool,
            prefill=max(settings.prefill, per_step),
            renew=settings.renew,
            crop_size=settings.crop_size,
            sides=(settings.sides[0], settings.sides[1]),
            seed=settings.seed,
            device=device,
        )
        torch.manual_seed(settings.seed)
        self.model = Student(teacher.embed_dim).to(device).train()
        self.facts = {
            "list of images": describe_files(paths),
            "weights of the teacher": fingerprint(teacher),
        }
        self.about = {
            "method": "distillation",
            "teacher": {"teacher": settings.teacher, **options},
            "images": len(paths),
            "batch_size": settings.batch,
            "crop_size": settings.crop_size,
            "seed": settings.seed,
        }

    def batches(self, start: int, stop: int, share: Share) -> Iterator[Batch]:
        """Crops of views; a new run measures mean and deviation of the teacher's channels first."""
        if start == 0:
            mean, std = self.views.statistics()
            self.model.mean.copy_(mean)
            self.model.std.copy_(std)
        passes = self.settings.accumulate
        for step in range(start, stop):
            for index in range(passes):
                place = share.rank * passes + index
                yield Batch(self.views.batch(step, self.settings.batch, place, passes * share.processes))

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Tensor:
        """See :func:`distillation_loss`."""
        images, features = (tensor.to(self.device) for tensor in batch.content)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            prediction = net(images)
        loss, _ = distillation_loss(prediction.float(), self.model.standardise(features))
        return loss

    def examine(self, model: nn.Module, step: int) -> Examination:
        """Loss and unexplained variance of the averaged student on crops of the coming step."""
        assert isinstance(model, Student)
        images, features = (t.to(self.device) for t in self.views.batch(step, self.settings.batch))
        loss, unexplained = distillation_loss(model(images), model.standardise(features))
        figures = {"loss": float(loss), "unexplained": float(unexplained)}
        return Examination({"coming crops": figures}, subject="data")

    def export(self, model: nn.Module) -> Export:
        """The averaged student in half precision, 2.5 MB."""
        assert isinstance(model, Student)
        state = model.pico.state_dict()
        halves = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
        return Export("pico", halves)

    def card(self, summary: Mapping[str, Any]) -> str:
        """Teacher, data, every setting, time and hardware."""
        settings = self.settings.to_dict()
        return f"""# pico

Distilled from {code(settings["teacher"])} on {amount(summary["images"], "image")}, random crops of
{settings["crop_size"]} pixels.

{training_section(settings, summary, "crops")}

{hardware_section(summary)}
"""

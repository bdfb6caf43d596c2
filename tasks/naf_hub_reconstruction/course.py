"""Feature reconstruction as a course: an upsampler learns to rebuild the features of a larger image."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from naf_hub.image_files import find_training_images
from naf_hub.interfaces import Features, Upsampler
from naf_hub.training.course import ALONE, Batch, Examination, Export, Share
from naf_hub.training.interrupts import leave_signals_to_parent
from naf_hub.training.settings import ConfigError

from .card import model_card
from .config import TrainConfig
from .data import Crop, Crops
from .evaluate import Pair, score
from .loss_terms import Loss
from .multiview import MultiView
from .plan import Steps
from .preparation import (
    cropping_of,
    freeze_idle,
    held_out_files,
    load_backbones,
    prepare_model,
    prepare_multiview,
    prepare_pairs,
    prepare_teachers,
)
from .preview import draw_preview


class ReconstructionCourse:
    """See :class:`naf_hub.training.course.Course`.

    Args:
        settings: what to compute.
        cache_features: folder for features of the frozen backbones; needs ``settings.views``.
        out: folder of the run, whose previews are not trained on.

    :meth:`prepare` raises :class:`~naf_hub.training.settings.ConfigError` where a backbone, an upsampler or the
    images make no sense.
    """

    advice = "start anew from them with --set init={saved} and a smaller lr or grad_clip=1"
    model: nn.Module

    def __init__(
        self,
        settings: TrainConfig,
        cache_features: str | os.PathLike[str] | None = None,
        out: str | os.PathLike[str] | None = None,
    ) -> None:
        self.settings, self.cache_features, self.out = settings, cache_features, out
        self.facts: dict[str, Any] = {}
        self.about: dict[str, Any] = {}
        self.objective = Loss(settings.loss)
        self.pairs: dict[str, list[Pair]] = {}

    def prepare(self, device: torch.device, share: Share) -> None:
        """Find the images, load the frozen backbones and the upsampler."""
        settings = self.settings
        if not settings.images:
            raise ConfigError("no training images given")
        self.device = device
        self.files = find_training_images(settings.images, self.out)
        self.held_out = held_out_files(settings, self.files, self.out)
        backbones = load_backbones(settings)
        first = next(iter(backbones.values()))
        upsampler = prepare_model(settings, device, first)
        if share.processes > 1:
            freeze_idle(upsampler, first.to(device))
        self.teachers, self.plan, self.facts = prepare_teachers(
            settings, self.files, device, self.cache_features, upsampler, backbones
        )
        self.by_place = list(self.teachers.values())
        self.model = upsampler
        if self.objective.by_views:
            self.model = prepare_multiview(settings, upsampler, self.by_place)
            self.advice = "start anew with a smaller lr or grad_clip=1"
        named = [text if "=" in text else f"{text}={settings.backbone_weights}" for text in settings.backbone]
        self.about = {
            "upsampler": settings.upsampler,
            "backbones": [text.removesuffix("=default") for text in named],
            "images": len(self.files),
        }

    def batches(self, start: int, stop: int, share: Share) -> Iterator[Batch]:
        """Crops of ``settings.batch`` images each."""
        size = self.settings.batch
        for crops in self.load_crops(start, stop, share):
            for first in range(0, len(crops), size):
                found = crops[first : first + size]
                skipped = {path: why for crop in found for path, why in crop.skipped.items()}
                yield Batch(found, tuple(crop.path.name for crop in found), skipped)

    def load_crops(self, start: int, stop: int, share: Share = ALONE) -> Iterator[list[Crop]]:
        """The crops of each step from ``start`` to ``stop - 1``."""
        loader = DataLoader(
            Crops(cropping_of(self.settings), self.files, [teacher.cache for teacher in self.by_place]),
            batch_sampler=Steps(self.plan, start, stop, share),  # pyright: ignore[reportArgumentType]
            num_workers=self.settings.workers,
            collate_fn=list,
            worker_init_fn=leave_signals_to_parent,
            generator=torch.Generator(),  # else it draws from the global generator
        )
        yield from cast("Iterator[list[Crop]]", loader)

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Tensor:
        """``settings.loss`` of the upsampled features against those of the larger image, summed over the levels, or
        against those of views."""
        settings, crops = self.settings, cast("list[Crop]", batch.content)
        sizes = crops[0].item.sizes
        teacher = self.by_place[sizes.teacher]
        if isinstance(self.model, MultiView):
            self.model.follow(step)
            return net(teacher, teacher.images(crops), sizes.input)
        if settings.levels:
            examples = teacher.levels(crops, settings.levels, settings.level_steps == "all")
        else:
            examples = iter((teacher.batch(crops),))

        def upsample(guidance: Tensor, features: Features, size: tuple[int, int]) -> Tensor:
            made = (guidance.shape[-2], guidance.shape[-1]) if sizes.fine else size
            with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                output = net(guidance, features, made)
            return F.adaptive_avg_pool2d(output, size) if sizes.fine else output

        losses = [
            self.objective(upsample, *example, teacher.upsampler.reference(example.small))
            for example in examples
        ]
        return torch.stack(losses).sum()

    def examine(self, model: nn.Module, step: int) -> Examination:
        """Held-out error for each backbone, chosen by the mean ratio to bilinear's; and a preview."""
        settings, upsampler = self.settings, upsampler_of(model)
        found = Examination(subject="backbone", metric="ratio_to_bilinear")
        if self.held_out and settings.is_due(settings.eval_every, step):
            found.figures = {name: self._score(name, upsampler) for name in self.teachers}
            ratios = [figures["ratio_to_bilinear"] for figures in found.figures.values()]
            found.score = sum(ratios) / len(ratios)
        if settings.is_due(settings.preview_every, step):
            files, teacher = self.held_out or self.files, self.by_place[0].gathering_by(upsampler)
            found.preview = lambda: draw_preview(settings, files, teacher, upsampler)
        return found

    def _score(self, name: str, model: Upsampler) -> dict[str, Any]:
        pairs = self.pairs.get(name)
        if pairs is None:
            teacher = self.teachers[name].gathering_by(model)
            pairs = prepare_pairs(self.settings, self.held_out, teacher)
            if not model.learns_to_gather:
                self.pairs[name] = pairs
        found = score({"model": model}, pairs)
        return {
            "images": found["images"],
            "bilinear_mse": found["bilinear_mse"],
            **found["methods"]["model"],
        }

    def export(self, model: nn.Module) -> Export:
        """The upsampler alone, with its options; one that is made for a number of channels, with that."""
        upsampler = upsampler_of(model)
        options, channels = self.settings.upsampler_options, upsampler.channels
        return Export(
            self.settings.upsampler,
            upsampler,
            options if channels is None else {"channels": channels, **options},
        )

    def card(self, summary: Mapping[str, Any]) -> str:
        """See :func:`~naf_hub_reconstruction.card.model_card`."""
        return model_card(self.settings, summary)


def upsampler_of(model: nn.Module) -> Upsampler:
    """What is examined and shipped of what is trained."""
    return model.upsampler if isinstance(model, MultiView) else cast("Upsampler", model)

"""Denoising as a course: a restorer learns to give back the clean image."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import naf_hub
from naf_hub.image_files import find_images
from naf_hub.records import RestorerRecord
from naf_hub.registry import registry
from naf_hub.training.course import Batch, Examination, Export, Share
from naf_hub.training.facts import describe_files
from naf_hub.training.settings import ConfigError

from .card import model_card
from .denoising_config import TrainConfig
from .denoising_preview import draw_preview
from .losses import restoration_loss
from .noise import Noise
from .noisy_batches import NoisyBatches, NoisyCrops, load_batches
from .noisy_comparison import Protocol, compare

RANDOM = ("", "none")


class DenoisingCourse:
    """See :class:`naf_hub.training.course.Course`.

    :meth:`prepare` raises :class:`~naf_hub.training.settings.ConfigError` where a restorer or the images make no
    sense.
    """

    advice = "start anew from them with --set init={saved} and a smaller lr or grad_clip=1"
    model: nn.Module

    def __init__(self, settings: TrainConfig) -> None:
        self.settings = settings
        self.facts: dict[str, Any] = {}
        self.about: dict[str, Any] = {}

    def prepare(self, device: torch.device, share: Share) -> None:
        """Find the images and build the restorer."""
        settings = self.settings
        if not settings.images:
            raise ConfigError("no training images given")
        self.device = device
        self.files = find_images(settings.images)
        self.held_out = self._held_out_files()
        self.model = self._build()
        self.facts = {"list of images": describe_files(self.files)}
        self.about = {
            "restorer": settings.restorer,
            "noise": settings.added_noise.words,
            "images": len(self.files),
        }

    def _held_out_files(self) -> list[Path]:
        """At most ``eval_images`` of the held-out images, evenly spread over the list."""
        if not self.settings.held_out:
            return []
        files = find_images(self.settings.held_out)
        shared = {path.resolve() for path in self.files}.intersection(path.resolve() for path in files)
        if shared:
            raise ConfigError(f"{len(shared)} held-out images are also trained on, such as {min(shared)}")
        count = min(self.settings.eval_images, len(files))
        return [files[i * len(files) // count] for i in range(count)]

    def _build(self) -> nn.Module:
        settings = self.settings
        record = registry().find(settings.restorer, RestorerRecord)
        if not record.trainable:
            names = [n for n in naf_hub.list_restorers() if registry().find(n, RestorerRecord).trainable]
            raise ConfigError(f"{record.name} cannot be trained; these can: {', '.join(names) or 'none'}")
        torch.manual_seed(settings.seed)
        weights = None if settings.init in RANDOM else settings.init
        model = naf_hub.load_restorer(record.name, weights=weights, **settings.restorer_options)
        return model.to(self.device).requires_grad_(True).train()  # load_restorer() freezes

    def batches(self, start: int, stop: int, share: Share) -> Iterator[Batch]:
        """Clean and noisy crops of ``settings.batch`` images each."""
        batches = NoisyBatches(self.settings, self.files, share, start, stop)
        for crops in load_batches(batches, self.settings.workers):
            yield Batch(crops, crops.names, crops.skipped)

    def loss(self, net: nn.Module, batch: Batch, step: int) -> Tensor:
        """See :func:`~naf_hub_restoration.losses.restoration_loss`."""
        settings, crops = self.settings, batch.content
        assert isinstance(crops, NoisyCrops)
        clean, noisy = crops.clean.to(self.device), crops.noisy.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            restored = net(noisy)
        return restoration_loss(restored.float(), clean, settings.l1, settings.l2, settings.ssim)

    def examine(self, model: nn.Module, step: int) -> Examination:
        """PSNR and SSIM on held-out crops at the lowest, middle and highest level, chosen by the mean PSNR."""
        settings = self.settings
        found = Examination(subject="noise", metric="psnr", lower_is_better=False)
        if self.held_out and settings.is_due(settings.eval_every, step):
            found.figures = {noise.words: self._score(model, noise) for noise in self._levels()}
            found.score = sum(figures["psnr"] for figures in found.figures.values()) / len(found.figures)
        if settings.is_due(settings.preview_every, step):
            files = self.held_out or self.files
            found.preview = lambda: draw_preview(settings, files, model, self.device)
        return found

    def _levels(self) -> list[Noise]:
        low, high = self.settings.level[0], self.settings.level[-1]
        levels = dict.fromkeys((low, (low + high) / 2, high))
        return [Noise(self.settings.noise, level, level) for level in levels]

    def _score(self, model: nn.Module, noise: Noise) -> dict[str, Any]:
        settings = self.settings
        protocol = Protocol(
            noise.kind,
            (noise.low,),
            settings.crop,
            settings.resize,
            settings.min_side,
            batch=1,
            seed=settings.seed,
        )
        figures, count = compare({"model": model}, self.held_out, protocol, self.device)
        noisy, restored = figures["noisy"], figures["model"]
        return {
            "images": count,
            "noisy_psnr": noisy["psnr"],
            "psnr": restored["psnr"],
            "ssim": restored["ssim"],
        }

    def export(self, model: nn.Module) -> Export:
        """The restorer, with its options."""
        return Export(self.settings.restorer, model, self.settings.restorer_options)

    def card(self, summary: Mapping[str, Any]) -> str:
        """See :func:`~naf_hub_restoration.card.model_card`."""
        return model_card(self.settings, summary)

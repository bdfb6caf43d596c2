"""Clean crops and their noisy copies, batch by batch: pure functions of the settings and the step."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from naf_hub.crops import Cropping
from naf_hub.errors import ImageError
from naf_hub.training.course import Share
from naf_hub.training.interrupts import leave_signals_to_parent
from naf_hub.training.order import EpochOrder

from .denoising_config import TrainConfig


@dataclasses.dataclass
class NoisyCrops:
    """One batch.

    Attributes:
        clean, noisy: (B, 3, side, side); the clean ones in [0, 1].
        names: of the files.
        skipped: files passed over, each with its reason.
    """

    clean: Tensor
    noisy: Tensor
    names: tuple[str, ...]
    skipped: dict[str, str]


class NoisyBatches(Dataset[NoisyCrops]):
    """The batches of one process; the next readable image stands in for a broken one.

    Args:
        settings: decide crops, order and noise.
        files: images, in a fixed order.
        share: which process of how many.
        start, stop: steps, of ``settings.accumulate`` batches each.
    """

    def __init__(
        self, settings: TrainConfig, files: Sequence[Path], share: Share, start: int, stop: int
    ) -> None:
        self.settings, self.files, self.share = settings, files, share
        self.first, self.last = start * settings.accumulate, stop * settings.accumulate
        self.order = EpochOrder(settings.seed, len(files))
        self.cropping = Cropping(
            settings.resize, settings.min_side, settings.random_crop, settings.flip, settings.seed
        )

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, number: int) -> NoisyCrops:
        """The batch of that number, counted from ``start``.

        Raises:
            ImageError: not one of the files can be used.
        """
        if not 0 <= number < len(self):
            raise IndexError(number)
        settings, share = self.settings, self.share
        # Batch by batch over the processes, so that each image comes once an epoch whatever their number.
        place = (self.first + number) * share.processes + share.rank
        crops, names, skipped = [], [], {}
        for position in range(place * settings.batch, (place + 1) * settings.batch):
            name, crop = self._crop(*self.order.place(position), skipped)
            names.append(name)
            crops.append(crop)
        clean = torch.stack(crops)
        noisy = settings.added_noise.add(clean, settings.seed, "training", place)
        return NoisyCrops(clean, noisy, tuple(names), skipped)

    def _crop(self, epoch: int, index: int, skipped: dict[str, str]) -> tuple[str, Tensor]:
        for offset in range(len(self.files)):
            path = self.files[(index + offset) % len(self.files)]
            try:
                return path.name, self.cropping.cut(path, epoch, self.settings.crop)
            except (ImageError, OSError) as error:
                skipped[str(path)] = str(error)
        first = next(iter(skipped.values()), "the list is empty")
        raise ImageError(f"none of the {len(self.files)} images can be used; the first: {first}")


def load_batches(batches: NoisyBatches, workers: int) -> Iterator[NoisyCrops]:
    """The batches in order, made by so many processes (0: by this one)."""
    yield from DataLoader(
        batches,
        batch_size=None,
        num_workers=workers,
        worker_init_fn=leave_signals_to_parent,
        generator=torch.Generator(),  # else it draws from the global generator
    )

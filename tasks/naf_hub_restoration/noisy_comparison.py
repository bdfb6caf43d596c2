"""Restorers on the same noisy images: how near they come to the clean ones."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from naf_hub.crops import Cropping
from naf_hub.errors import ImageError
from naf_hub.images import read_image
from naf_hub.kept_results import KeptResults
from naf_hub.terminal import progress_bar
from naf_hub.training.settings import build, require

from .classical import apply, classical_methods
from .likeness import paper_ssim, psnr, skimage_ssim
from .noise import Kind, Noise

NOISY = "noisy"  # the yardstick: what is given to the restorers


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What an evaluation does. Lengths are image pixels.

    Attributes:
        noise: ``"gaussian"`` or ``"salt_and_pepper"``.
        level: standard deviation or probability; of two numbers, the lowest and the highest, one is drawn a batch.
        crop: side of the centre crop; 0 takes whole images, one at a time.
        resize: short side images are brought to before cropping; 0 keeps their size.
        min_side: images with a shorter side are left out.
        batch: images restored at a time, which share a level, and whose error the paper's PSNR takes together.
        limit: use so many images, evenly spread; 0 uses all.
        seed: of the noise.
        classical: whether classical methods are compared, too; they are told the level.
    """

    noise: Kind = "gaussian"
    level: tuple[float, ...] = (0.1,)
    crop: int = 448
    resize: int = 448
    min_side: int = 0
    batch: int = 2
    limit: int = 0
    seed: int = 0
    classical: bool = False

    def __post_init__(self) -> None:
        require(self.batch >= 1, "batch", self.batch, "must be at least 1")
        for key in ("crop", "resize", "min_side", "limit"):
            require(getattr(self, key) >= 0, key, getattr(self, key), "must not be negative")
        require(len(self.level) in (1, 2), "level", self.level, "must be one number, or [low, high]")
        self.added_noise  # noqa: B018 (raises where the level makes no sense)

    @classmethod
    def read(cls, settings: Mapping[str, Any]) -> Protocol:
        """From plain data.

        Raises:
            ConfigError: a setting that does not exist or makes no sense.
        """
        return build(cls, settings)

    @property
    def added_noise(self) -> Noise:
        """What is added to the images."""
        return Noise(self.noise, self.level[0], self.level[-1])

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return dataclasses.asdict(self)


def clean_batches(
    files: Sequence[Path], protocol: Protocol, skipped: dict[str, str]
) -> Iterator[tuple[list[Path], Tensor]]:
    """Files, and their images (B, 3, H, W) as the protocol wants them; ``skipped`` gets those passed over and why."""
    cropping = Cropping(protocol.resize, protocol.min_side)
    batch: list[Tensor] = []
    taken: list[Path] = []
    for path in files:
        try:
            image = cropping.cut(path, 0, protocol.crop) if protocol.crop else read_image(path)
        except (ImageError, OSError) as error:
            skipped[str(path)] = str(error)
            continue
        batch.append(image)
        taken.append(path)
        if not protocol.crop or len(batch) == protocol.batch:
            yield taken, torch.stack(batch)
            batch, taken = [], []
    if batch:
        yield taken, torch.stack(batch)


@torch.no_grad()
def compare(
    models: Mapping[str, Any],
    files: Sequence[Path],
    protocol: Protocol,
    device: Any = "cpu",
    skipped: dict[str, str] | None = None,
    progress: bool = False,
    out: str | os.PathLike[str] | None = None,
) -> tuple[dict[str, dict[str, float | None]], int]:
    """Figures of every model, of the noisy images themselves under ``"noisy"``, and of the classical methods.

    Args:
        models: restorers by label.
        files: of clean images.
        protocol: what is done with them.
        device: where the models are.
        skipped: receives images passed over and why.
        progress: show a progress bar on stderr.
        out: keep the figures of each batch in this folder; an interrupted evaluation goes on from them, see
            :class:`naf_hub.kept_results.KeptResults`.

    Returns:
        By label: ``psnr`` and ``ssim`` as scikit-image defines them, mean over images (``ssim`` is ``None`` where no
        image has 7 pixels a side); ``paper_psnr`` and ``paper_ssim`` as the code of the paper does, mean over batches.
        And the number of images.

    Raises:
        MissingExtraError: the protocol wants classical methods, and what they need is not installed.
        ImageError: no usable image.
    """
    attempts: dict[str, Callable[[Tensor, float], Tensor]] = {NOISY: lambda noisy, _: noisy}
    if protocol.classical:
        attempts |= {
            label: partial(apply, method) for label, method in classical_methods(protocol.noise).items()
        }
    attempts |= {label: partial(_restore, model, device) for label, model in models.items()}
    settings = {key: value for key, value in protocol.to_dict().items() if key not in ("limit", "classical")}
    kept = KeptResults(
        out, "denoising", {"protocol": settings}, [], {label: models.get(label) for label in attempts}
    )
    totals: dict[str, dict[str, list[float]]] = {}
    skipped, count = {} if skipped is None else skipped, 0
    batches = clean_batches(files, protocol, skipped)
    # Noise is a function of the number of the batch: the same for all models, whatever else is compared.
    for number, (paths, clean) in enumerate(
        progress_bar(batches, wanted=progress, desc="denoising", unit="batch", leave=False)
    ):
        seeds = (protocol.seed, "evaluation", number)
        noisy, level = protocol.added_noise.add(clean, *seeds), protocol.added_noise.level_of(*seeds)
        count += len(clean)
        for label, attempt in attempts.items():
            known = kept.recall(label, paths)
            if known is None or known["batch"] != number:  # its noise was another
                known = {"batch": number, "figures": figures_of(attempt(noisy, level), clean)}
                kept.keep(label, paths, known)
            total = totals.setdefault(label, {})
            for name, values in known["figures"].items():
                total.setdefault(name, []).extend(values)
    if not count:
        first = next(iter(skipped.values()), "the list is empty")
        raise ImageError(f"no usable image; the first: {first}")
    means = {
        label: {name: sum(values) / len(values) if values else None for name, values in found.items()}
        for label, found in totals.items()
    }
    return means, count


def figures_of(restored: Tensor, clean: Tensor) -> dict[str, list[float]]:
    """What :func:`compare` takes means of, of one batch (B, 3, H, W): a number for each image, or for the batch."""
    pairs = list(zip(restored.split(1), clean.split(1), strict=True))
    return {
        "psnr": [psnr(one, target) for one, target in pairs],
        "ssim": [ssim for one, target in pairs if (ssim := skimage_ssim(one, target)) is not None],
        "paper_psnr": [psnr(restored, clean)],
        "paper_ssim": [paper_ssim(restored, clean)],
    }


def _restore(model: Any, device: Any, noisy: Tensor, _: float) -> Tensor:
    return model(noisy.to(device)).float().cpu()

"""The task object behind ``naf_hub.load_task("reconstruction")``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import naf_hub
from naf_hub.images import find_images
from naf_hub.interfaces import Backbone, Task, Upsampler


class Reconstruction(Task):
    """Feature reconstruction: upsample the features of a downscaled image to those of the image itself.

    Needs images only, no labels. Its error says how much of the detail a backbone would have given at a
    higher resolution the upsampler recovers.
    """

    name: ClassVar[str] = "reconstruction"

    def train(self, **options: Any) -> dict[str, Any]:
        """See :func:`train`."""
        return train(**options)

    def evaluate(self, **options: Any) -> dict[str, Any]:
        """See :func:`evaluate`."""
        return evaluate(**options)


def train(
    *,
    out: str | os.PathLike[str],
    recipe: str | None = None,
    resume: bool = False,
    cache_features: str | os.PathLike[str] | None = None,
    device: Any = None,
    tensorboard: bool = False,
    progress: bool = True,
    **settings: Any,
) -> dict[str, Any]:
    """Train an upsampler.

    Args:
        out: folder of the run.
        recipe: a shipped recipe or a TOML file; settings go over it.
        cache_features: folder for features of the frozen backbones; needs ``views``.
        resume, device, tensorboard, progress: see :class:`~naf_hub.training.run.Run`.
        settings: keys of :class:`~naf_hub_reconstruction.config.TrainConfig`.

    Returns:
        The summary of :meth:`naf_hub.training.run.Run.run`.
    """
    from naf_hub.training.run import Run
    from naf_hub.training.settings import build

    from .config import TrainConfig, read_recipe
    from .course import ReconstructionCourse

    config = build(TrainConfig, read_recipe(recipe) if recipe else {}, settings)
    course = ReconstructionCourse(config, cache_features)
    return Run(course, out, resume=resume, device=device, tensorboard=tensorboard, progress=progress).run()


def evaluate(
    *,
    upsamplers: Mapping[str, Upsampler] | Sequence[str],
    backbone: str | Backbone,
    images: Sequence[str | os.PathLike[str]],
    weights: str | None = None,
    backbone_weights: str | None = "default",
    backbone_options: Mapping[str, Any] | None = None,
    crop: int = 384,
    down: float = 0.5,
    guidance: float = 4.0,
    guidance_max: int = 224,
    resize: int = 0,
    min_side: int = 0,
    pooled: bool = False,
    limit: int = 0,
    device: Any = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Reconstruction error of upsamplers on the same images; bilinear interpolation is the yardstick.

    Args:
        upsamplers: modules by the name to report them under, or ``NAME`` and ``NAME=WEIGHTS`` to load.
        backbone: gives the features; a module, or a name to load with ``backbone_weights`` and
            ``backbone_options``.
        images: files, folders or patterns, none of them trained on.
        weights: of learned upsamplers that are named without their own.
        crop, resize: centre crop of that many pixels, after bringing the short side to ``resize`` pixels
            (0: leave it, enlarging only what is smaller than the crop).
        down: side of the input image over that of the crop; 0.5 is x2 upsampling.
        guidance, guidance_max: side of the guidance image: pixels per target cell, and its bound (0: none).
        min_side: images with a shorter side are left out.
        pooled: the input is the target averaged to the input grid, not the features of a smaller image:
            what is lost is detail alone.
        limit: use only so many images, evenly spread over the list; 0 for all.
        device: where to compute; default the CPU.
        progress: show a progress bar on stderr.

    Returns:
        What :func:`~naf_hub_reconstruction.evaluate.score` returns, and ``skipped``: file to reason.
    """
    import torch
    from tqdm import tqdm

    from .evaluate import held_out_pairs, score
    from .features import Teacher

    where = torch.device(device or "cpu")
    files = find_images(images)
    if isinstance(backbone, str):
        backbone = naf_hub.load_backbone(backbone, weights=backbone_weights, **(backbone_options or {}))
    if not isinstance(upsamplers, Mapping):
        upsamplers = dict(load_named(specification, weights) for specification in upsamplers)
    if limit and limit < len(files):
        files = [files[i * len(files) // limit] for i in range(limit)]
    skipped: dict[str, str] = {}
    pairs = held_out_pairs(
        files,
        Teacher(backbone, where),
        crop=crop,
        down=down,
        guidance=guidance,
        guidance_max=guidance_max,
        resize=resize,
        min_side=min_side,
        pooled=pooled,
        skipped=skipped,
    )
    methods = {name: upsampler.to(where).eval() for name, upsampler in upsamplers.items()}
    bar = tqdm(pairs, total=len(files), unit="image", disable=None if progress else True)
    return {**score(methods, bar), "skipped": skipped}


def load_named(specification: str, weights: str | None = None) -> tuple[str, Upsampler]:
    """What to report it as, and the upsampler of ``NAME`` or ``NAME=WEIGHTS`` (``none`` is random)."""
    name, equals, own = specification.partition("=")
    if not naf_hub.info(name).learned:
        return name, naf_hub.load(name)
    chosen = own if equals else (weights or "default")
    return specification, naf_hub.load(name, weights=None if chosen == "none" else chosen)

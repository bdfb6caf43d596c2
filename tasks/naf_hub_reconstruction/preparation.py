"""What a run needs before its first step: teachers, student and held-out pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import naf_hub
from naf_hub.crops import Cropping
from naf_hub.image_files import find_training_images
from naf_hub.interfaces import Backbone, Upsampler
from naf_hub.loading import load_upsampler
from naf_hub.records import UpsamplerRecord
from naf_hub.registry import registry
from naf_hub.training.facts import describe_files, fingerprint
from naf_hub.training.settings import ConfigError

from .cache import CropFeatures
from .config import TrainConfig
from .evaluate import Pair, held_out_pairs
from .features import Teacher
from .plan import Plan

RANDOM = ("", "none")


def held_out_files(
    config: TrainConfig, trained_on: Sequence[Path], out: str | os.PathLike[str] | None = None
) -> list[Path]:
    """At most ``eval_images`` of the held-out images outside ``out``, evenly spread over the list.

    Raises:
        ConfigError: some of them are trained on.
    """
    if not config.held_out:
        return []
    files = find_training_images(config.held_out, out)
    shared = {path.resolve() for path in trained_on}.intersection(path.resolve() for path in files)
    if shared:
        raise ConfigError(f"{len(shared)} held-out images are also trained on, such as {min(shared)}")
    count = min(config.eval_images, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def cropping_of(config: TrainConfig) -> Cropping:
    """How a run cuts its training crops."""
    return Cropping(config.resize, config.min_side, config.random_crop, config.flip, config.seed)


def prepare_pairs(config: TrainConfig, files: Sequence[Path], teacher: Teacher) -> list[Pair]:
    """The held-out pairs: centre crops at the first ``down`` and the largest ``guidance`` of the run."""
    found = held_out_pairs(
        files,
        teacher,
        crop=config.crop,
        down=config.down[0],
        guidance=max(config.guidance),
        guidance_max=config.guidance_max,
        resize=config.resize,
        min_side=config.min_side,
    )
    return list(found)


def load_backbones(config: TrainConfig) -> dict[str, Backbone]:
    """The frozen teachers by name; a name that comes again is ``NAME#2`` (with options of its own, say).

    Raises:
        ConfigError: none named, or options for one that is not.
    """
    if not config.backbone:
        raise ConfigError("no backbone given")
    named = [text.partition("=") for text in config.backbone]
    names: list[str] = []
    for name, _, _ in named:
        before = sum(name == earlier for earlier, _, _ in named[: len(names)])
        names.append(f"{name}#{before + 1}" if before else name)
    tables = {key: value for key, value in config.backbone_options.items() if isinstance(value, Mapping)}
    strangers = tables.keys() - names
    if strangers:
        raise ConfigError(f"backbone_options.{min(strangers)}: no such backbone; given: {', '.join(names)}")
    loaded: dict[str, Backbone] = {}
    for label, (name, equals, own) in zip(names, named, strict=True):
        weights = own if equals else config.backbone_weights
        options = options_of(config, label)
        loaded[label] = naf_hub.load_backbone(name, weights=None if weights in RANDOM else weights, **options)
    return loaded


def options_of(config: TrainConfig, label: str) -> dict[str, Any]:
    """Constructor options of one backbone: those for all, and over them its own table."""
    shared = {k: v for k, v in config.backbone_options.items() if not isinstance(v, Mapping)}
    return {**shared, **config.backbone_options.get(label, {})}


def prepare_teachers(
    config: TrainConfig,
    files: Sequence[Path],
    device: torch.device,
    cache_folder: str | os.PathLike[str] | None,
    upsampler: Upsampler,
) -> tuple[dict[str, Teacher], Plan, dict[str, Any]]:
    """The frozen backbones, the plan of the steps, and the facts a continued run must share.

    Raises:
        ConfigError: see :func:`load_backbones`; or features to be cached without fixed views.
    """
    if cache_folder is not None and not config.views:
        raise ConfigError("--cache-features needs fixed crops: set views to 1 or more")
    backbones = load_backbones(config)
    plan = Plan(config, len(files), [b.patch_size for b in backbones.values()])
    digests = {name: fingerprint(backbone) for name, backbone in backbones.items()}
    teachers: dict[str, Teacher] = {}
    for place, (name, backbone) in enumerate(backbones.items()):
        inputs = plan.inputs(place)
        cache = None
        if cache_folder is not None:
            keys = ("resize", "random_crop", "flip", "seed", "precision")
            identity: dict[str, Any] = {key: config.to_dict()[key] for key in keys}
            # Options may change features without changing weights: how borders are padded, say.
            identity |= {"backbone": name.partition("#")[0], "backbone_options": options_of(config, name)}
            identity |= {"backbone_sha256": digests[name]}
            identity |= {"crop": plan.crop(place), "gather": repr(upsampler.gather_key)}
            cache = CropFeatures(cache_folder, identity)
        bf16 = config.precision == "bf16"
        teachers[name] = Teacher(backbone, device, upsampler, inputs, cache, bf16)
    facts = {
        "list of images": describe_files(files),
        "weights of the backbone": digests,
        "use of --cache-features": cache_folder is not None,
    }
    return teachers, plan, facts


def prepare_model(config: TrainConfig, device: torch.device) -> Upsampler:
    """The upsampler to train, in training mode; random weights are drawn from the seed.

    Raises:
        ConfigError: it has nothing to train.
    """
    record = registry().find(config.upsampler, UpsamplerRecord)
    if not record.trainable:
        names = [n for n in naf_hub.list_upsamplers() if registry().find(n, UpsamplerRecord).trainable]
        raise ConfigError(f"{record.name} cannot be trained; these can: {', '.join(names) or 'none'}")
    torch.manual_seed(config.seed)
    weights = None if config.init in RANDOM else config.init
    # Weights made per backbone are those of the first: of several it can be made for one only.
    made_for = config.backbone[0].partition("=")[0] if config.backbone else None
    model = load_upsampler(record.name, weights=weights, made_for=made_for, **config.upsampler_options)
    model.to(device)
    model.requires_grad_(True)  # load() freezes
    # Convolutions run faster channels-last; names and values of the weights stay as they are.
    return model.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]

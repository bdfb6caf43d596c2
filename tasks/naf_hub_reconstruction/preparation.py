"""What a run needs before its first step: teachers, student and held-out pairs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import naf_hub
from naf_hub.crops import Cropping
from naf_hub.image_files import find_training_images
from naf_hub.interfaces import Backbone, Upsampler
from naf_hub.loading import load_upsampler
from naf_hub.records import UpsamplerRecord
from naf_hub.registry import registry
from naf_hub.training.facts import describe_files, fingerprint
from naf_hub.training.settings import ConfigError
from naf_hub.wants import Want

from .cache import CropFeatures
from .config import TrainConfig
from .evaluate import Pair, held_out_pairs
from .features import Teacher, takes_maps
from .loss_terms import CHANGES, VIEWS, Loss
from .multiview import MultiView
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
    """The frozen teachers by name; a name that comes again is ``NAME#2`` (with options of its own, say). Random
    weights are drawn from the seed.

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
    torch.manual_seed(config.seed)
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
    backbones: Mapping[str, Backbone],
) -> tuple[dict[str, Teacher], Plan, dict[str, Any]]:
    """The frozen backbones, the plan of the steps, and the facts a continued run must share.

    Raises:
        ConfigError: features to be cached without fixed views, or settings that do not go with the upsampler.
    """
    if cache_folder is not None and not config.views:
        raise ConfigError("--cache-features needs fixed crops: set views to 1 or more")
    if cache_folder is not None and Loss(config.loss).by_views:
        raise ConfigError(f"--cache-features keeps no views; leave it out of {VIEWS}")
    if cache_folder is not None and config.levels:
        raise ConfigError("--cache-features keeps one input of a crop; leave it out, or set levels to 0")
    _check_gathering(config, upsampler, cache_folder is not None)
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


def _check_gathering(config: TrainConfig, upsampler: Upsampler, cached: bool) -> None:
    """Raise a :class:`ConfigError` where settings do not go with what the upsampler gathers of a backbone."""
    name = config.upsampler
    if upsampler.learns_to_gather and cached:
        raise ConfigError(f"{name} learns what it reads of the backbone: leave --cache-features out")
    if config.pooled and not takes_maps(upsampler):
        raise ConfigError(
            f"pooled = {config.pooled}: averages maps of the whole image, and {name} takes more"
        )
    if Loss(config.loss).upsamples_target and upsampler.gather_key != ((Want(),),):
        raise ConfigError(
            f"loss = {config.loss!r}: {' and '.join(CHANGES)} upsample the target, a plain map, and {name} takes more"
        )


def prepare_model(config: TrainConfig, device: torch.device, backbone: Backbone) -> Upsampler:
    """The upsampler to train, in training mode; random weights are drawn from the seed.

    What is made per backbone is made for the one given, of several the first.

    Raises:
        ConfigError: it has nothing to train.
    """
    record = registry().find(config.upsampler, UpsamplerRecord)
    if not record.trainable:
        names = [n for n in naf_hub.list_upsamplers() if registry().find(n, UpsamplerRecord).trainable]
        raise ConfigError(f"{record.name} cannot be trained; these can: {', '.join(names) or 'none'}")
    torch.manual_seed(config.seed)
    weights = None if config.init in RANDOM else config.init
    model = load_upsampler(record.name, weights=weights, made_for=backbone, **config.upsampler_options)
    model.to(device)
    model.requires_grad_(True)  # load() freezes
    freeze_space(model, backbone.embed_dim)
    # Convolutions run faster channels-last; names and values of the weights stay as they are.
    return model.to(memory_format=torch.channels_last).train()  # pyright: ignore[reportCallIssue]


def freeze_space(model: Upsampler, channels: int) -> None:
    """Take what decides the space of the output, a norm of the features, out of training: the target lies there too,
    and would shrink for the sake of the loss. The authors' norms do not learn either."""
    device = next(model.parameters()).device
    found = model.reference(torch.rand(1, channels, 2, 2, device=device))
    for parameter in _trained_behind(found, model):
        parameter.requires_grad_(False)


def prepare_multiview(config: TrainConfig, upsampler: Upsampler, teachers: Sequence[Teacher]) -> MultiView:
    """The upsampler with the networks that learn beside it, whose random weights are drawn from the seed.

    Raises:
        ConfigError: settings that do not go with views.
    """
    if len(teachers) > 1:
        raise ConfigError(
            f"loss = {config.loss!r}: {VIEWS} learns a way down to the cells of one backbone; name one"
        )
    (teacher,) = teachers
    backbone = teacher.backbone
    torch.manual_seed(config.seed)
    return MultiView(config, upsampler, backbone.embed_dim, backbone.patch_size).to(teacher.device)


def freeze_idle(model: Upsampler, backbone: Backbone) -> None:
    """Take parameters that the method carries and never uses out of training: processes that share gradients would
    wait for theirs. The method is tried once, on noise."""
    training = model.training
    device = next(model.parameters()).device
    side = 4 * backbone.patch_size
    image = torch.rand(1, 3, side, side, device=device)
    features = model.eval().gather(image, backbone)
    grid = model.reference(features).shape[-2:]
    output = model(image, features, (16 * grid[0], 16 * grid[1]))  # far enough for layers of later steps
    used = set(_trained_behind(output, model))
    for parameter in set(model.parameters()) - used:
        parameter.requires_grad_(False)
    model.train(training)


def _trained_behind(output: Tensor, model: Upsampler) -> list[nn.Parameter]:
    """The parameters in training that an output depends on."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not output.requires_grad:
        return []
    gradients = torch.autograd.grad(output.sum(), trained, allow_unused=True)
    return [parameter for parameter, found in zip(trained, gradients, strict=True) if found is not None]

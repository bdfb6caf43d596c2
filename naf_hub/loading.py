"""From a name to a model in eval mode."""

from __future__ import annotations

import contextlib
import inspect
import logging
import os
from pathlib import Path
from typing import Any, overload

import torch
from torch import nn

from .construction import construct
from .devices import require_device
from .errors import NafHubError, OptionError, WeightsChoiceError, WeightsError
from .fitting_backbones import require_maps
from .interfaces import Backbone, ForeignWeights, Restorer, Task, Upsampler
from .pipeline import FeaturePipeline
from .records import BackboneRecord, Origin, Record, RestorerRecord, TaskRecord, UpsamplerRecord
from .registry import registry
from .weights.blueprint import blueprint, check_counts
from .weights.files import load_into, locate, read_state_dict
from .weights.fill import stream_into
from .weights.hub import CONFIG
from .weights.terms import tell_terms

log = logging.getLogger("naf_hub")
WeightsLike = str | os.PathLike[str] | None


@overload
def load(name: str, backbone: None = None, *, weights: WeightsLike = "default", device: Any = None,
         **options: Any) -> Upsampler: ...  # fmt: skip
@overload
def load(name: str, backbone: str | nn.Module, *, weights: WeightsLike = "default",
         backbone_weights: WeightsLike = "default", device: Any = None,
         **options: Any) -> FeaturePipeline: ...  # fmt: skip
def load(
    name: str,
    backbone: str | nn.Module | None = None,
    *,
    weights: WeightsLike = "default",
    backbone_weights: WeightsLike = "default",
    device: Any = None,
    **options: Any,
) -> Upsampler | FeaturePipeline:
    """Load an upsampler, alone or behind a backbone.

    Args:
        name: a registered upsampler (``naf-hub list``).
        backbone: a registered backbone, ``"timm:<model>"``, or a module of your own: a :class:`naf_hub.Backbone`
            (:func:`naf_hub.wrap` makes one), or anything that maps images to (B, C, h, w).
        weights: a named set of the upsampler's record, a local folder or ``.safetensors`` file,
            ``"hf://owner/repo[@revision]"``, or ``None`` for random initialisation.
        backbone_weights: the same for the backbone.
        device: where to put it; default the CPU.
        options: constructor options of the upsampler, over those its weights were made with.

    Returns:
        The :class:`~naf_hub.Upsampler` without ``backbone``, else a :class:`~naf_hub.FeaturePipeline`; in eval
        mode and frozen, so that a plain call keeps nothing for a backward pass. Gradients still reach image and
        features; to train it, ``model.requires_grad_(True).train()``.

    Raises:
        UnknownNameError: with the nearest names.
        MapError: the backbone lacks what the upsampler needs of it; names backbones that have it.
        WeightsError: weights missing, damaged or for another model.
        OptionError: an option the upsampler does not have, or of the wrong type or value; a TypeError, too.
        ValueError: a GPU that is not there.
    """
    upsampler = load_upsampler(name, weights=weights, made_for=backbone, device=device, **options)
    if backbone is None:
        return upsampler
    if isinstance(backbone, str):
        backbone = load_backbone(backbone, weights=backbone_weights, device=device)
    return FeaturePipeline(backbone, upsampler).eval().to(device)


def load_upsampler(
    name: str, *, weights: WeightsLike = "default", made_for: str | nn.Module | int | None = None,
    device: Any = None, **options: Any,
) -> Upsampler:  # fmt: skip
    """An upsampler alone, in eval mode and frozen, with the weights made for a backbone that is loaded elsewhere.

    Args:
        name, weights, device, options: as for :func:`load`.
        made_for: the backbone it will stand behind: its name, the module, or only how many channels its features have;
            decides the default weights where they are made per backbone, and the ``channels`` of an upsampler that is
            made for a number of them.

    Raises:
        UnknownNameError, MapError, WeightsError, OptionError: as for :func:`load`.
    """
    require_device(device)
    record = registry().find(name, UpsamplerRecord)
    named = record.weights.get(os.fspath(weights)) if weights is not None else None
    require_maps(record, made_for, {**(named.options if named else {}), **options})
    if not record.backbone_agnostic and weights == "default":
        weights = _weights_for(record, made_for)
    upsampler = _build(record, weights, options, _channels_option(record, made_for), made_for)
    if not isinstance(upsampler, Upsampler):
        raise TypeError(f"{record.target} is no naf_hub.Upsampler")
    upsampler.origin = Origin(record, None if weights is None else os.fspath(weights))
    return upsampler.requires_grad_(False).to(device)


def load_backbone(
    name: str, *, weights: WeightsLike = "default", device: Any = None, dtype: torch.dtype | None = None,
    **options: Any,
) -> Backbone:  # fmt: skip
    """Load a backbone: ``load_backbone("pico")(image)`` gives dense features in one line.

    Args:
        name: a registered backbone, or ``"timm:<model>"`` for any timm model with a spatial feature map.
        weights: as for :func:`load`.
        device: where to put it; default the CPU.
        options: constructor options of the backbone.
        dtype: precision of the weights; default float32, or what the record says (bfloat16 for models of
            billions of parameters). Images and features keep the caller's own.

    Returns:
        A frozen :class:`~naf_hub.Backbone` in eval mode.

    Raises:
        UnknownNameError, WeightsError, OptionError: as for :func:`load`.
    """
    require_device(device)
    record = registry().find(name, BackboneRecord)
    dtype = dtype or (getattr(torch, record.dtype) if record.dtype else None)
    backbone = _build_backbone(record, weights, options, dtype, device)
    if not isinstance(backbone, Backbone):
        raise TypeError(f"{record.target} is no naf_hub.Backbone")
    backbone.origin = Origin(record, None if weights is None else os.fspath(weights), options)
    return backbone.requires_grad_(False)


def load_restorer(
    name: str, *, weights: WeightsLike = "default", device: Any = None, **options: Any
) -> Restorer:
    """Load a restorer: ``load_restorer("name")(noisy)`` gives the restored image.

    Args:
        name: a registered restorer.
        weights: as for :func:`load`.
        device: where to put it; default the CPU.
        options: constructor options, over those its weights were made with.

    Returns:
        A frozen :class:`~naf_hub.Restorer` in eval mode.

    Raises:
        UnknownNameError, WeightsError, OptionError: as for :func:`load`.
    """
    require_device(device)
    record = registry().find(name, RestorerRecord)
    restorer = _build(record, weights, options)
    if not isinstance(restorer, Restorer):
        raise TypeError(f"{record.target} is no naf_hub.Restorer")
    restorer.origin = Origin(record, None if weights is None else os.fspath(weights))
    return restorer.requires_grad_(False).to(device)


def load_task(name: str) -> Task:
    """The task of that name, ready for ``train(...)`` or ``evaluate(...)``.

    Raises:
        UnknownNameError: with the nearest names.
    """
    return registry().find(name, TaskRecord).resolve()()


def _channels_option(record: UpsamplerRecord, made_for: str | nn.Module | int | None) -> dict[str, Any]:
    """The constructor option ``channels``, where the upsampler has one and it is known what it is made for."""
    if "channels" not in inspect.signature(record.resolve()).parameters:
        return {}
    if isinstance(made_for, str):
        made_for = registry().find(made_for, BackboneRecord).embed_dim
    channels = made_for if isinstance(made_for, int) else getattr(made_for, "embed_dim", None)
    return {"channels": channels} if channels else {}


def _weights_for(record: UpsamplerRecord, backbone: str | nn.Module | int | None) -> str:
    if not record.weights:
        raise WeightsChoiceError(f"{record.name} has no named weights for any backbone", record.name)
    known = set(registry().names(BackboneRecord))
    named = [name for name in sorted(record.weights) if name in known or ":" in name]
    further = [f"{record.name}={name}" for name in sorted(record.weights) if name not in named]
    have = "; further sets: ".join(filter(None, (", ".join(named), ", ".join(further))))
    if isinstance(backbone, Backbone) and backbone.origin is not None:
        backbone = backbone.origin.record.name
    if not isinstance(backbone, str):
        raise WeightsChoiceError(
            f"{record.name} has weights per backbone ({have})", record.name, "name the backbone"
        )
    if backbone not in record.weights:
        raise WeightsChoiceError(
            f"{record.name} has no weights for backbone {backbone!r}; it has them for: {have}", record.name
        )
    return backbone


def _locate(record: Record, weights: WeightsLike) -> tuple[dict[str, Any], Path | None, str]:
    if weights == "default" and record.learned and "default" not in record.weights:
        named = f"; named sets: {', '.join(record.weights)}" if record.weights else ""
        raise WeightsChoiceError(f"{record.kind} {record.name!r} has no default weights{named}", record.name)
    tell_terms(record, weights)
    made_with, file = locate(record, weights)
    log.info("%s: %s", record.name, file or ("random weights" if record.learned else "needs no weights"))
    return made_with, file, f"{record.name} weights {os.fspath(weights or '')!r}"


def _build(
    record: Record,
    weights: WeightsLike,
    options: dict[str, Any],
    unless_made_with: dict[str, Any] | None = None,
    made_for: str | nn.Module | int | None = None,
) -> nn.Module:
    made_with, file, what = _locate(record, weights)
    require_maps(record, made_for, {**made_with, **options})  # a folder's config.json says more than a name
    made_with = {**(unless_made_with or {}), **made_with}
    if file is not None:
        _blueprint(record, weights, made_with, options, file, what)
    return _whole(record, made_with, options, file, what)


def _whole(
    record: Record, made_with: dict[str, Any], options: dict[str, Any], file: Path | None, what: str
) -> nn.Module:
    """The model with storage of its own, then all of its weights at once.

    Raises:
        OptionError: it cannot be built with ``options``.
        WeightsError: the file is not for it.
    """
    try:
        model = construct(record, {**made_with, **options})
    except (TypeError, ValueError) as error:
        if not options or isinstance(error, NafHubError):
            raise
        raise OptionError(str(error)) from error
    if file is not None:
        load_into(model, read_state_dict(file), what)
    return model.eval()


def _build_backbone(
    record: Record, weights: WeightsLike, options: dict[str, Any], dtype: torch.dtype | None, device: Any
) -> nn.Module:
    """The model in the wanted precision, filled without a second copy of its weights where that can be done."""
    made_with, file, what = _locate(record, weights)
    if file is not None:
        model = _blueprint(record, weights, made_with, options, file, what)
        if isinstance(model, ForeignWeights) and stream_into(
            model, file, dtype or torch.get_default_dtype(), device, what
        ):
            return model.eval()
    return _whole(record, made_with, options, file, what).to(device, dtype)


def _blueprint(
    record: Record,
    weights: WeightsLike,
    made_with: dict[str, Any],
    options: dict[str, Any],
    file: Path,
    what: str,
) -> nn.Module | None:
    """The model without storage, known to suit its file; ``None`` where whoever gave the options is answered by the
    constructor itself.

    Raises:
        WeightsError: the file is not for this model, or no model can be built as its ``config.json`` says.
    """
    config = file.with_name(CONFIG)
    stranger = made_with and os.fspath(weights or "") not in record.weights
    if stranger:
        check_counts(record.resolve(), made_with, config, file)
    try:
        return blueprint(lambda: construct(record, {**made_with, **options}), file, what)
    except WeightsError:
        raise
    except Exception as error:  # of the constructor, which may not be made for what a config may say
        if not stranger:
            return None
        with contextlib.suppress(Exception):
            blueprint(lambda: construct(record, made_with), file, what)
            return None
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:300]
        raise WeightsError(
            f"{config}: no {record.name} can be built with these options ({reason})"
        ) from error

"""Records of timm models that have no name of their own: ``timm:<model name>``."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

import timm
import torch
from timm.models import get_pretrained_cfg

from naf_hub import BackboneRecord, UnknownNameError, Weights
from naf_hub.records import IMAGENET_MEAN, IMAGENET_STD

from .backbone import TimmBackbone, network_of


def unknown(name: str) -> UnknownNameError:
    architecture, _, tag = name.partition(".")
    if tag and timm.is_model(architecture):
        tags = timm.list_pretrained(f"{architecture}.*")
        known = f"known: {', '.join(tags[:8])}" if tags else "it has no pretrained tags"
        return UnknownNameError(f"timm model {architecture!r} has no tag {tag!r}; {known}")
    near = difflib.get_close_matches(architecture, timm.list_models(), n=3, cutoff=0.5)
    hint = f"did you mean {', '.join(f'timm:{n}' for n in near)}?" if near else "timm.list_models() lists all"
    return UnknownNameError(f"timm {timm.__version__} has no model {name!r}; {hint}")


def triple(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return (red, green, blue)


def record_for(name: str) -> BackboneRecord:
    """The record of ``timm:<name>``; weights are timm's own on the Hub, where it has some.

    Raises:
        UnknownNameError: timm has no such model or tag; names the nearest.
        ValueError: the model gives no spatial feature map.
    """
    if not timm.is_model(name):
        raise unknown(name)
    try:
        config = get_pretrained_cfg(name)
    except RuntimeError as error:
        raise unknown(name) from error
    with torch.device("meta"):
        model = TimmBackbone(name)
    network = network_of(model.model)
    license = (config and config.license) or None
    weights = {}
    if config is not None and config.hf_hub_id and not config.custom_load:
        file = config.hf_hub_filename or "model.safetensors"
        weights["default"] = Weights(
            f"hf://{config.hf_hub_id}/{file}", license=license, summary="timm's, on the Hub"
        )
    return BackboneRecord(
        name=f"timm:{name}",
        summary=f"timm model {name}.",
        target="naf_hub_timm.backbone:TimmBackbone",
        options={"model": name},
        weights=weights,
        parameters=sum(p.numel() for p in model.parameters()),
        embed_dim=model.embed_dim,
        patch_size=model.patch_size,
        native_size=config.input_size[1] if config else None,
        mean=triple(config.mean if config else IMAGENET_MEAN),
        std=triple(config.std if config else IMAGENET_STD),
        non_commercial="-nc" in (license or ""),
        network=network,
        depth=len(model.model.blocks) if network == "timm" else 0,
    )

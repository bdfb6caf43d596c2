"""What can be chosen on the page, and what each choice will fetch."""

from __future__ import annotations

from ..contenders import Contender
from ..record_facts import in_bytes
from ..records import BackboneRecord, Record, UpsamplerRecord, Weights
from ..registry import registry

Choice = tuple[str, str]
"""What the page shows, and the ``NAME[=WEIGHTS]`` it stands for."""


def backbone_choices(first: str) -> list[Choice]:
    """Backbones with default weights; ``first`` before all, then those that ship with a package."""
    return _choices(first, BackboneRecord, "default")


def upsampler_choices(first: str, backbone: str) -> list[Choice]:
    """Upsamplers that go behind a backbone without more to say: ``first``, methods without weights, and those that have
    default weights or weights for this backbone."""
    return _choices(first, UpsamplerRecord, Contender.parse(backbone, kind=BackboneRecord).name)


def _choices(first: str, kind: type[Record], made_for: str) -> list[Choice]:
    found = registry()
    records = [found.find(name, kind) for name in found.names(kind)]
    choices = []
    for record in records:
        agnostic = not isinstance(record, UpsamplerRecord) or record.backbone_agnostic
        weights = record.weights.get("default" if agnostic else made_for)
        if record.name != first and (weights or not record.learned):
            choices.append((_is_fetched(weights), _label(record, weights), record.name))
    return [(first, first), *((label, name) for _, label, name in sorted(choices))]


def _is_fetched(weights: Weights | None) -> bool:
    return weights is not None and not weights.source.startswith("package://")


def _label(record: Record, weights: Weights | None) -> str:
    if weights is None or not _is_fetched(weights):
        return record.name
    size = in_bytes(weights.size) if weights.size else "download"
    return f"{record.name} ({size} on first use)"

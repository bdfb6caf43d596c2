"""What competes: ``NAME[=WEIGHTS]``, parsed once and by one rule. Imports no torch until something is loaded."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .records import BackboneRecord, Origin, Picklable, Record, RestorerRecord, UpsamplerRecord
from .registry import registry

if TYPE_CHECKING:
    from torch import nn

    from .interfaces import Backbone

RANDOM = "none"


def parse_weights(text: str | None) -> str | None:
    """Weights as they are written in text: ``none`` in any case is ``None``, random initialisation.

    Raises:
        ValueError: the text is empty.
    """
    if text is None or text.lower() == RANDOM:
        return None
    if not text:
        raise ValueError(
            "empty weights; name a set, a path or hf://owner/repo, or write none for random ones"
        )
    return text


@dataclasses.dataclass(frozen=True)
class Contender(Picklable):
    """A registered model with the weights it competes with.

    Attributes:
        record: of the upsampler, backbone or restorer.
        weights: a named set, a path or an address; ``None`` is random initialisation, or a method without weights.
        options: constructor options.
        given: the name it was asked for by, where that is not the record's (``timm:resnet18``).
    """

    record: Record
    weights: str | None = "default"
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    given: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))

    @classmethod
    def parse(
        cls,
        text: str,
        weights: str | None = "default",
        *,
        kind: type[Record] = UpsamplerRecord,
        options: Mapping[str, Any] | None = None,
    ) -> Contender:
        """The contender that ``NAME`` or ``NAME=WEIGHTS`` means.

        Args:
            text: a registered name, and after the first ``=`` a named set, a path, ``hf://owner/repo[@revision]``,
                or ``none`` for random initialisation.
            weights: of a learned model that is named without its own; ``None`` is random.
            kind: record class of what is named.
            options: constructor options.

        Raises:
            UnknownNameError: no such model; lists the nearest.
            ValueError: weights for a method that has none, or an empty name of weights.
        """
        name, equals, own = text.partition("=")
        record = registry().find(name, kind)
        try:
            chosen = parse_weights(own) if equals else weights
        except ValueError as error:
            raise ValueError(f"{text!r}: {error}") from error
        if not record.learned:
            if equals and chosen not in (None, "default"):
                raise ValueError(f"{text!r}: {record.kind} {name!r} has no weights to choose; write {name}")
            chosen = None
        return cls(record, chosen, options or {}, name if name != record.name else "")

    @property
    def name(self) -> str:
        """The name it is loaded by."""
        return self.given or self.record.name

    @property
    def label(self) -> str:
        """``NAME`` for the default weights and for methods without, else ``NAME=WEIGHTS`` (``none``: random)."""
        return self.name + Origin(self.record, self.weights).label.removeprefix(self.record.name)

    def load(
        self,
        made_for: str | nn.Module | int | None = None,
        device: Any = None,
        *,
        seed: int = 0,
        **options: Any,
    ) -> Any:
        """The model, as its kind is loaded: in eval mode and frozen.

        Args:
            made_for: the backbone an upsampler will stand behind; see :func:`naf_hub.loading.load_upsampler`.
            device: where to put it; default the CPU.
            seed: of random initialisation; the global random state is left alone.
            options: constructor options, over :attr:`options`.

        Raises:
            WeightsError: weights missing, damaged or for another model.
            TypeError: an option the model does not have.
        """
        import torch

        from . import loading

        merged = {**self.options, **options}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # random initialisation is part of a result
            if isinstance(self.record, BackboneRecord):
                return loading.load_backbone(self.name, weights=self.weights, device=device, **merged)
            if isinstance(self.record, RestorerRecord):
                return loading.load_restorer(self.name, weights=self.weights, device=device, **merged)
            return loading.load_upsampler(
                self.name, weights=self.weights, made_for=made_for, device=device, **merged
            )


def name_model(model: nn.Module) -> str:
    """What a loaded model is called in reports: the label of its origin, else its class."""
    origin = getattr(model, "origin", None)
    return type(model).__name__ if origin is None else origin.label


def parse_backbone(
    backbone: str | Contender | Backbone, weights: str | None = "default"
) -> Contender | Backbone:
    """A backbone as tasks take it, ``NAME[=WEIGHTS]`` parsed; ``weights`` is for a name without its own."""
    return Contender.parse(backbone, weights, kind=BackboneRecord) if isinstance(backbone, str) else backbone


def require_distinct(labels: Sequence[str], kind: type[Record] = UpsamplerRecord) -> None:
    """Raise a ValueError that names the labels that are there twice."""
    twice = sorted({label for label in labels if labels.count(label) > 1})
    if twice:
        raise ValueError(f"{kind.kind} named twice: {', '.join(twice)}")


def load_contenders(
    entries: str | Contender | nn.Module | Sequence[str | Contender | nn.Module] | Mapping[str, nn.Module],
    *,
    kind: type[Record] = UpsamplerRecord,
    made_for: str | nn.Module | None = None,
    device: Any = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The models that compete, by label; all names are looked up before the first weights are fetched.

    Args:
        entries: ``NAME[=WEIGHTS]``, contenders or modules; one, several, or modules by the label to report.
        kind: record class of what is named.
        made_for: as for :meth:`Contender.load`.
        device: where to put what is loaded; modules are left where they are.
        seed: of random initialisation.

    Raises:
        ValueError: two of one label, or none at all.
        UnknownNameError, WeightsError, TypeError: as for :meth:`Contender.parse` and :meth:`Contender.load`.
    """
    if isinstance(entries, Mapping):
        return dict(entries)
    several: list[Any] = list(entries) if isinstance(entries, (list, tuple)) else [entries]
    parsed = [Contender.parse(entry, kind=kind) if isinstance(entry, str) else entry for entry in several]
    labels = [entry.label if isinstance(entry, Contender) else name_model(entry) for entry in parsed]
    require_distinct(labels, kind)
    if not parsed:
        raise ValueError(f"no {kind.kind} given")
    return {
        label: entry.load(made_for, device, seed=seed) if isinstance(entry, Contender) else entry
        for label, entry in zip(labels, parsed, strict=True)
    }

"""What kinds of thing can be registered: one row each, which registry, list, info, checks, publishing and docs read.

A further kind is a record class, a hook in :mod:`naf_hub.hookspecs`, an interface, and a row here.
"""

from __future__ import annotations

import dataclasses
import importlib
from typing import Any

from .records import BackboneRecord, Record, RestorerRecord, TaskRecord, UpsamplerRecord


@dataclasses.dataclass(frozen=True)
class Kind:
    """One row of the table.

    Attributes:
        record: class of its records.
        word: what one is called.
        plural: what several are called.
        hook: with which plugins register them.
        loader: function of :mod:`naf_hub` that loads one by name.
        checker: ``"module:function"`` of its conformance suite, or ``None`` where there is none.
        prefixes: whether a plugin may serve ``prefix:name`` for families too large to list.
        usage: what a model card shows after ``import naf_hub``; ``{load}`` is the call, with weights. ``None`` for a
            kind that has no weights to publish.
        hub_task: what the Hub calls the task such a model is for.
        hub_tag: tag of such models on the Hub, or ``None``.
    """

    record: type[Record]
    word: str
    plural: str
    hook: str
    loader: str
    checker: str | None = None
    prefixes: bool = False
    usage: str | None = None
    hub_task: str = "image-feature-extraction"
    hub_tag: str | None = None

    def load(self, name: str, **options: Any) -> Any:
        """Load one by name, as a user would."""
        return getattr(importlib.import_module("naf_hub.loading"), self.loader)(name, **options)

    def check(self, name: str, **options: Any) -> None:
        """Run its conformance suite on a registered name.

        Raises:
            AssertionError: says which promise is broken.
            TypeError: there is no suite for this kind.
        """
        if self.checker is None:
            raise TypeError(f"there is no conformance suite for a {self.word}")
        module, _, function = self.checker.partition(":")
        getattr(importlib.import_module(module), function)(name, **options)


KINDS: tuple[Kind, ...] = (
    Kind(
        UpsamplerRecord,
        "upsampler",
        "upsamplers",
        "register_upsamplers",
        "load",
        checker="naf_hub.testing:check_upsampler",
        usage="upsampler = {load}\n"
        "features = upsampler(image, low_resolution_features, (448, 448))  # image: RGB in [0, 1]",
        hub_tag="feature-upsampling",
    ),
    Kind(
        BackboneRecord,
        "backbone",
        "backbones",
        "register_backbones",
        "load_backbone",
        checker="naf_hub.testing:check_backbone",
        prefixes=True,
        usage="backbone = {load}\nfeatures = backbone(image)  # (B, C, h, w); image: RGB in [0, 1]",
    ),
    Kind(
        RestorerRecord,
        "restorer",
        "restorers",
        "register_restorers",
        "load_restorer",
        checker="naf_hub.testing:check_restorer",
        usage="restorer = {load}\nrestored = restorer(image)  # RGB in [0, 1], noise may leave it",
        hub_task="image-to-image",
        hub_tag="image-restoration",
    ),
    Kind(TaskRecord, "task", "tasks", "register_tasks", "load_task"),
)


def kind_of(record: Record | type[Record]) -> Kind:
    """The kind of a record, or of a class of records."""
    wanted = record if isinstance(record, type) else type(record)
    return next(kind for kind in KINDS if issubclass(wanted, kind.record))

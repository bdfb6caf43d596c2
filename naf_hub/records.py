"""What a plugin registers: frozen records that say what a thing is without importing it.

Nothing here imports torch, so that ``naf-hub list`` and ``info`` stay fast.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from .errors import PluginError

NAME = re.compile(r"[a-z][a-z0-9_]*")
# What a plugin serves by prefix goes by the name that the user looks up: ``timm:resnet10t``.
PREFIXED = re.compile(r"[a-z][a-z0-9_]*:[\w./@-]+")
TARGET = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
# Licences that allow every use, some of them for naming the authors. SPDX identifiers, in the Hub's spelling too.
FREE = re.compile(
    r"apache-2\.0|mit(-0)?|bsd-[23]-clause|isc|cc0-1\.0|cc-by(-sa)?-[34]\.0|unlicense|0bsd", re.I
)
HUB = re.compile(r"hf://(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[^/]+))?(/(?P<file>.+))?")

# Mean and standard deviation per RGB channel of images in [0, 1], what most published backbones were trained with.
IMAGENET_MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
IMAGENET_STD: tuple[float, float, float] = (0.229, 0.224, 0.225)


class Picklable:
    """Frozen data whose mappings are read-only views, which can neither be pickled nor copied: models carry it."""

    def __reduce__(self) -> tuple[Any, ...]:
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # pyright: ignore
        plain = {k: dict(v) if isinstance(v, MappingProxyType) else v for k, v in fields.items()}
        return functools.partial(type(self), **plain), ()


@dataclasses.dataclass(frozen=True)
class Weights(Picklable):
    """One named set of weights.

    Attributes:
        source: ``package://import_package/folder`` (ships inside a package),
            ``hf://owner/repo[@revision][/file]``, or an ``https://`` address of a single file.
        size: bytes of the weights file; ``None`` only where the publisher states none.
        sha256: hex digest of the weights file; ``None`` only where the publisher states none.
        options: constructor options these weights were made with.
        license: SPDX identifier or the name of the licence of the weights.
        summary: one line on where they come from.
        parts: where the file is published in pieces, as a tar archive cut up: what each piece's address adds to
            ``source``, in order. ``size`` and ``sha256`` are then unused.
        also: further published files of the set, by the prefix their keys get beside those of ``source``.
    """

    source: str
    size: int | None = None
    sha256: str | None = None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    license: str | None = None
    summary: str = ""
    parts: tuple[str, ...] = ()
    also: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("source", "size", "sha256", "license", "summary"):
            value, kind = getattr(self, key), int if key == "size" else str
            if not (isinstance(value, kind) or (value is None and key in ("size", "sha256", "license"))):
                raise TypeError(f"weights: {key} must be {kind.__name__}, got {value!r}")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        object.__setattr__(self, "also", MappingProxyType(dict(self.also)))

    @property
    def free(self) -> bool:
        """Whether the licence is known to allow every use."""
        return self.license is not None and FREE.fullmatch(self.license) is not None

    @property
    def repository(self) -> str | None:
        """``owner/repo`` on the Hub, or ``None`` for weights from elsewhere."""
        match = HUB.fullmatch(self.source)
        return match["repo"] if match else None

    @property
    def revision(self) -> str | None:
        """The commit, tag or branch ``source`` names; ``None`` where it names none, and for weights from elsewhere."""
        match = HUB.fullmatch(self.source)
        return match["revision"] if match else None

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data |= {"options": dict(self.options), "parts": list(self.parts), "also": dict(self.also)}
        return data | {"repository": self.repository, "revision": self.revision}


NETWORKS = ("", "timm", "transformer", "stages")


@dataclasses.dataclass(frozen=True)
class Record(Picklable):
    """What all records share.

    Attributes:
        name: lower snake case, unique among its kind.
        summary: one line.
        target: ``"package.module:Class"``, imported by the first ``load``.
        options: constructor options that make this name (``naf_plus_plus`` is NAF with two of them set).
        paper: address of the paper, or ``None``.
        license: licence of the code; default what the metadata of the distribution states.
        weights: named sets of weights; ``"default"`` is what ``load`` takes.
        by_hand: where weights lie that no address fetches, in words: the place, the files, their licence.
        learned: whether it has weights at all; a learned record without a ``"default"`` set must be
            loaded with an explicit ``weights=``.
        state_dict_keys: the keys, outermost first, under which released pickles (``.pth``) hide their state dict, such
            as ``("teacher",)``; empty where such a file is the state dict itself. A file without the first
            of them is taken to be it, too.
        parameters: learned numbers of the model as it is loaded; ``None`` where they are not stated, or differ between
            sets of weights or with the features' channels.
        family: what it is listed under; default the plugin's name.
        provider: distribution that registered it; filled in by the registry.
    """

    name: str
    summary: str
    target: str
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    paper: str | None = None
    license: str | None = None
    weights: Mapping[str, Weights] = dataclasses.field(default_factory=dict)
    learned: bool = True
    by_hand: str = ""
    state_dict_keys: tuple[str, ...] = ()
    parameters: int | None = None
    family: str = ""
    provider: str = ""

    kind = "record"

    def __post_init__(self) -> None:
        if not (NAME.fullmatch(self.name) or PREFIXED.fullmatch(self.name)) or len(self.name) > 128:
            raise ValueError(f"name {self.name!r}: use lower snake case, at most 128 characters")
        if not TARGET.fullmatch(self.target):
            raise ValueError(f"{self.name}: target {self.target!r} is not 'package.module:Class'")
        if not self.summary or "\n" in self.summary:
            raise ValueError(f"{self.name}: summary must be one line")
        for title, weights in dict(self.weights).items():
            if not isinstance(title, str) or not isinstance(weights, Weights):
                raise TypeError(
                    f"{self.name}: weights must map names to naf_hub.Weights, got {title!r}: {weights!r}"
                )
        if not (self.parameters is None or (isinstance(self.parameters, int) and self.parameters >= 0)):
            raise ValueError(f"{self.name}: parameters must be a number of them, got {self.parameters!r}")
        if isinstance(self.state_dict_keys, str):
            raise ValueError(f"{self.name}: state_dict_keys must be a tuple of keys")
        object.__setattr__(self, "options", MappingProxyType(dict(self.options)))
        object.__setattr__(self, "weights", MappingProxyType(dict(self.weights)))

    def resolve(self) -> Any:
        """Import and return the target.

        Raises:
            PluginError: it cannot be imported; names the distribution that registered it.
        """
        module, _, attribute = self.target.partition(":")
        try:
            return getattr(importlib.import_module(module), attribute)
        except (Exception, SystemExit) as error:  # code of a plugin's, which may fail in any way
            raise PluginError(
                f"{self.kind} {self.name!r} of {self.provider or 'an unknown distribution'}: cannot import "
                f"{self.target} ({type(error).__name__}: {' '.join(str(error).split())})"
            ) from error

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        data = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        data["options"] = dict(self.options)
        data["weights"] = {name: w.to_dict() for name, w in self.weights.items()}
        return {"kind": self.kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in data.items()}


@dataclasses.dataclass(frozen=True)
class UpsamplerRecord(Record):
    """A feature upsampler.

    Attributes:
        backbone_agnostic: one set of weights serves every backbone; otherwise the named sets are
            backbone names.
        ratios: what output sizes it can make, in words (``"any"``, ``"x16"``).
        trainable: whether ``naf-hub train reconstruction`` can train it.
    """

    backbone_agnostic: bool = True
    ratios: str = "any"
    trainable: bool = False

    kind = "upsampler"


@dataclasses.dataclass(frozen=True)
class BackboneRecord(Record):
    """A vision backbone that gives dense features.

    Attributes:
        embed_dim: channels of the feature map.
        patch_size: image pixels per feature cell.
        native_size: side in pixels the model was trained at, or ``None``.
        mean: subtracted inside, per RGB channel of images in [0, 1].
        std: what is then divided by.
        gated: whether the Hub asks to accept terms first.
        non_commercial: whether the licence of the weights forbids commercial use.
        dtype: precision to load in (``"bfloat16"``) where float32 would be unreasonably large.
        network: what it has inside, for methods that read more than its last map: ``"timm"``, a vision transformer laid
            out as timm's, whose blocks have tokens, queries, keys and values; ``"transformer"``, another one that has
            them; ``"stages"``, a convolutional or hierarchical network of tokens only; ``""`` where it is not stated.
        depth: transformer blocks of a ``"timm"`` network; 0 where it is not stated.
    """

    embed_dim: int = 0
    patch_size: int = 0
    native_size: int | None = None
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
    gated: bool = False
    non_commercial: bool = False
    dtype: str | None = None
    network: str = ""
    depth: int = 0

    kind = "backbone"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.network not in NETWORKS:
            known = ", ".join(repr(network) for network in NETWORKS)
            raise ValueError(f"{self.name}: network must be one of {known}; got {self.network!r}")


@dataclasses.dataclass(frozen=True)
class RestorerRecord(Record):
    """Something that restores images: a denoiser, say.

    Attributes:
        degradations: what it restores, in words (``"Gaussian noise"``).
        trainable: whether a task of naf-hub can train it.
    """

    degradations: str = ""
    trainable: bool = False

    kind = "restorer"


@dataclasses.dataclass(frozen=True)
class TaskRecord(Record):
    """Something upsampled features are for; its class has ``train`` and/or ``evaluate``."""

    learned: bool = False

    kind = "task"


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a loaded model comes from.

    Attributes:
        record: what was loaded.
        weights: which set, path or address; ``None`` is random initialisation, or a method without weights.
        options: constructor options that were given, of a backbone.
    """

    record: Record
    weights: str | None
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict, compare=False)

    @property
    def label(self) -> str:
        """``NAME`` for the default weights and for methods without, else ``NAME=WEIGHTS`` (``none``: random)."""
        if not self.record.learned or self.weights == "default":
            return self.record.name
        return f"{self.record.name}={self.weights or 'none'}"

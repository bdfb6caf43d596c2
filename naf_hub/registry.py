"""The registry: names to frozen records, filled once by the plugins."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import fnmatch
import importlib
import re
import threading
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TypeVar

from .errors import UnknownNameError
from .kinds import KINDS, Kind, kind_of
from .plugins import Plugin, PluginLoader
from .records import NAME, TARGET, BackboneRecord, Record, RestorerRecord, TaskRecord, UpsamplerRecord

R = TypeVar("R", bound=Record)

WILD = re.compile(r"[*?[]")


@dataclasses.dataclass(frozen=True)
class Prefix:
    """``prefix:anything`` is looked up by calling ``target`` with what follows the colon."""

    name: str
    target: str
    provider: str
    kind: type[Record]
    license: str | None = None

    def record(self, rest: str) -> Record:
        """The record of ``name:rest``.

        Raises:
            UnknownNameError: there is none.
        """
        module, _, attribute = self.target.partition(":")
        record = getattr(importlib.import_module(module), attribute)(rest)
        # By this name it was found, and by this name it will be found again.
        license = record.license or self.license
        return dataclasses.replace(
            record, name=f"{self.name}:{rest}", provider=self.provider, license=license
        )


class Collector:
    """Collects one plugin's records of one kind; the :class:`naf_hub.hookspecs.Register` its hook receives.

    Args:
        kind: of the records.
        provider: distribution of the plugin.
        license: of that distribution, for records that state none.
        family: what records are listed under that state none.
    """

    def __init__(self, kind: Kind, provider: str, license: str | None = None, family: str = "") -> None:
        self.kind = kind
        self.provider = provider
        self.license = license
        self.family = family
        self.records: list[Record] = []
        self.prefixes: list[Prefix] = []

    def __call__(self, record: Record) -> None:
        """Register one record.

        Raises:
            TypeError: the record is of another kind than the hook.
            ValueError: its name has a colon, which only what is served by prefix has.
        """
        expected = self.kind.record
        if not isinstance(record, expected):
            raise TypeError(f"register() takes a {expected.__name__}, got {type(record).__name__}")
        if ":" in record.name:
            raise ValueError(f"name {record.name!r}: use lower snake case")
        self.records.append(
            dataclasses.replace(
                record,
                provider=self.provider,
                license=record.license or self.license,
                family=record.family or self.family,
            )
        )

    def prefix(self, name: str, target: str) -> None:
        """See :meth:`naf_hub.hookspecs.Register.prefix`.

        Raises:
            TypeError: this kind has no prefixes, or name and target are not of the right form.
        """
        if not self.kind.prefixes:
            able = ", ".join(kind.plural for kind in KINDS if kind.prefixes)
            raise TypeError(f"only {able} can be registered by prefix")
        if not (NAME.fullmatch(str(name)) and TARGET.fullmatch(str(target))):
            raise TypeError(
                f"prefix takes a lower snake case name and 'module:function', got {name!r}, {target!r}"
            )
        self.prefixes.append(Prefix(name, target, self.provider, self.kind.record, self.license))


class Registry:
    """All records of all plugins that loaded."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self.prefixes: dict[str, Prefix] = {}
        self.loader = PluginLoader(self._accept)
        self.loader.load()

    def _accept(self, module: ModuleType, plugin: Plugin) -> None:
        manager = self.loader.manager
        others = [other for other in manager.get_plugins() if other is not module]
        registers: list[Collector] = []
        for kind in KINDS:
            register = Collector(kind, plugin.distribution, plugin.license, plugin.name)
            manager.subset_hook_caller(kind.hook, others)(register=register)
            registers.append(register)
        # Check all before keeping any: a refused plugin leaves nothing behind.
        records = [record for register in registers for record in register.records]
        prefixes = [prefix for register in registers for prefix in register.prefixes]
        taken = {name: record.provider for name, record in self.records.items()}
        for record in records:
            if record.name in taken:
                raise ValueError(
                    f"{record.kind} {record.name!r} is already registered by {taken[record.name]}; choose another name"
                )
            taken[record.name] = record.provider
        for prefix in prefixes:
            if prefix.name in self.prefixes:
                raise ValueError(
                    f"prefix {prefix.name!r} is already registered by {self.prefixes[prefix.name].provider}"
                )
        self.records.update({record.name: record for record in records})
        self.prefixes.update({prefix.name: prefix for prefix in prefixes})

    def names(self, kind: type[Record], pattern: str | None = None) -> list[str]:
        """Sorted names of a kind: those that contain ``pattern``, or match it where it has ``*``, ``?`` or ``[``."""
        names = sorted(name for name, record in self.records.items() if isinstance(record, kind))
        if pattern is None:
            return names
        pattern = pattern.lower()
        whole = pattern if WILD.search(pattern) else f"*{pattern}*"
        return [name for name in names if fnmatch.fnmatchcase(name, whole)]

    def find(self, name: str, kind: type[R]) -> R:
        """The record of ``name``.

        Raises:
            UnknownNameError: with the nearest names and the plugins that failed to load.
        """
        prefix, colon, rest = name.partition(":")
        if colon and prefix in self.prefixes and issubclass(self.prefixes[prefix].kind, kind):
            return self.prefixes[prefix].record(rest)  # pyright: ignore[reportReturnType]
        record = self.records.get(name)
        if isinstance(record, kind):
            return record
        raise UnknownNameError(self._unknown(name, kind, record))

    def _behind_prefixes(self, name: str, kind: type[Record]) -> list[str]:
        """``timm:resnet18`` for ``resnet18``: what a prefix knows by that very name."""
        found = []
        for prefix in self.prefixes.values():
            if name and ":" not in name and issubclass(prefix.kind, kind):
                with contextlib.suppress(Exception):  # of a plugin, while another message is made
                    found.append(prefix.record(name).name)
        return found

    def _unknown(self, name: str, kind: type[Record], other: Record | None) -> str:
        word = "name" if kind is Record else kind_of(kind).word
        if other is not None:
            return f"{name!r} names a registered {other.kind}, no {word}"
        names = self.names(kind)
        near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
        near += [n for n in names if name and name in n and n not in near][: 3 - len(near)]
        near = self._behind_prefixes(name, kind) or near
        hint = f"; did you mean {', '.join(near)}?" if near else f"; naf-hub list shows all {len(names)}"
        broken = "".join(
            f"; plugin {p.name} of {p.distribution} failed to load ({p.error})"
            for p in self.loader.failures()
        )
        return f"unknown {word} {name!r}{hint}{broken}"


_registry: Registry | None = None
_lock = threading.Lock()


def registry() -> Registry:
    """The process-wide registry; the first call loads the plugins."""
    global _registry
    if _registry is None:
        with _lock:
            if _registry is None:
                _registry = Registry()
    return _registry


def reload() -> None:
    """Forget everything; the next call loads the plugins anew (after installing one in a live session)."""
    global _registry
    with _lock:
        _registry = None


def list_upsamplers(pattern: str | None = None) -> list[str]:
    """Registered upsampler names, sorted: all, those that contain ``pattern``, or that match it (``"naf*"``)."""
    return registry().names(UpsamplerRecord, pattern)


def list_backbones(pattern: str | None = None) -> list[str]:
    """Registered backbone names, sorted. Any timm model works besides, as ``timm:<model name>``."""
    return registry().names(BackboneRecord, pattern)


def list_restorers(pattern: str | None = None) -> list[str]:
    """Registered restorer names, sorted."""
    return registry().names(RestorerRecord, pattern)


def list_tasks(pattern: str | None = None) -> list[str]:
    """Registered task names, sorted."""
    return registry().names(TaskRecord, pattern)


def info(name: str) -> Record:
    """The record of anything registered, by its name.

    Raises:
        UnknownNameError: no such name; the message lists the nearest.
    """
    return registry().find(name, Record)


def plugin_hooks() -> Iterable[tuple[Plugin, Callable[..., object]]]:
    """For each working plugin that adds commands: the plugin and a callable taking ``cli=``."""
    loader = registry().loader
    for module, plugin in loader.modules:
        if "register_commands" in plugin.hooks:
            others = [other for other in loader.manager.get_plugins() if other is not module]
            yield plugin, loader.manager.subset_hook_caller("register_commands", others)

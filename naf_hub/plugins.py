"""Loading plugins: one `try` per entry point, so that a broken one never takes the rest down.

pluggy's own loader stops at the first plugin whose import fails and silently skips the second of two
entry points with one name; both are reported here instead. Entry points run code of whoever published the
distribution: install only plugins you trust.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import logging
import os
import re
import sys
import time
from collections.abc import Callable, Iterable
from types import BuiltinFunctionType, FunctionType, ModuleType
from typing import Any

import pluggy

from . import hookspecs
from .errors import PluginError

log = logging.getLogger("naf_hub")
GROUP = "naf_hub"
OWN_DISTRIBUTION = "naf-hub"


@dataclasses.dataclass(frozen=True)
class Plugin:
    """What became of one entry point.

    Attributes:
        name: entry-point name.
        distribution: what was installed.
        version: of the distribution.
        module: import target.
        hooks: hooks it implements.
        requires: its version range of naf-hub, as its metadata states it.
        license: of the distribution, as its metadata states it; ``None`` where it states none.
        torch_seconds: how long its import took, where torch is imported on the way; ``None`` where it is not.
        error: one line, or ``None`` when it works.
    """

    name: str
    distribution: str
    version: str
    module: str
    hooks: tuple[str, ...] = ()
    requires: str = ""
    license: str | None = None
    torch_seconds: float | None = None
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"hooks": list(self.hooks)}


def one_line(error: BaseException) -> str:
    """``Type: message`` on one line, shortened where it runs long."""
    text = " ".join(str(error).split())
    text = text if len(text) <= 300 else text[:297] + "..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def strict() -> bool:
    return os.environ.get("NAF_HUB_STRICT", "") not in ("", "0")


def _wanted() -> set[str] | None:
    value = os.environ.get("NAF_HUB_PLUGINS")
    return None if value is None else {part.strip() for part in value.split(",") if part.strip()}


def _requirement(distribution: importlib.metadata.Distribution) -> str:
    for line in distribution.requires or []:
        requirement, _, marker = (part.strip() for part in line.partition(";"))
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        if re.sub(r"[-_.]+", "-", name).lower() == OWN_DISTRIBUTION and "extra" not in marker:
            return requirement
    return ""


def _entry_points() -> list[tuple[importlib.metadata.EntryPoint, Plugin]]:
    """Every entry point of our group with what its distribution's metadata says; those that say nothing readable
    are passed over, whatever is wrong with them."""
    found: list[tuple[importlib.metadata.EntryPoint, Plugin]] = []
    seen: set[tuple[str, str, str]] = set()
    for distribution in importlib.metadata.distributions():
        try:
            entries = [entry for entry in distribution.entry_points if entry.group == GROUP]
        except Exception as error:  # metadata of unrelated packages can be anything
            log.debug("cannot read entry points of %s: %s", distribution, one_line(error))
            continue
        if not entries:
            continue
        stated = described(
            distribution, entries[0]
        )  # once: parsing metadata is a good part of the time of `list`
        for entry in entries:
            plugin = dataclasses.replace(stated, name=entry.name, module=entry.value)
            # A distribution on sys.path twice (editable and installed) is still one plugin.
            key = (plugin.distribution.lower(), entry.name, entry.value)
            if key not in seen:
                seen.add(key)
                found.append((entry, plugin))
    # naf-hub's own first, then by name: the outcome must not depend on the order of sys.path.
    found.sort(
        key=lambda pair: (pair[1].distribution != OWN_DISTRIBUTION, pair[1].distribution, pair[0].name)
    )
    return found


def described(
    distribution: importlib.metadata.Distribution,
    entry: importlib.metadata.EntryPoint,
    *,
    error: str | None = None,
) -> Plugin:
    """An entry point with what its distribution's metadata says, as far as that can be read."""
    # Without readable metadata there still is a folder that the distribution was found in.
    folder = getattr(getattr(distribution, "_path", None), "name", "").partition("-")[0] or "unknown"
    plugin = Plugin(entry.name, folder, "", entry.value, error=error)
    try:
        metadata = distribution.metadata
        return dataclasses.replace(
            plugin,
            distribution=metadata["Name"] or folder,
            version=metadata["Version"] or "",
            requires=_requirement(distribution),
            license=_license(metadata),
        )
    except Exception as failure:  # missing, unreadable, or not even text
        log.debug("metadata of %s: %s", distribution, one_line(failure))
        return plugin


def _license(metadata: importlib.metadata.PackageMetadata) -> str | None:
    """The licence's identifier, or its name where the older field holds one and not the whole text."""
    for key in ("License-Expression", "License"):
        if key in metadata and metadata[key] != "UNKNOWN" and re.fullmatch(r".{1,80}", metadata[key]):
            return metadata[key]
    return None


def _imports_torch(before: set[str]) -> bool:
    """Whether the modules imported since then import torch, or hold something of a torch that was there already."""
    new = sys.modules.keys() - before
    if "torch" in new or "torch" not in sys.modules:
        return "torch" in new
    return any(
        _is_of_torch(value)
        for name in new
        for value in list(getattr(sys.modules[name], "__dict__", {}).values())
    )


def _is_of_torch(value: object) -> bool:
    if isinstance(value, ModuleType):
        names = [value.__name__]
    elif isinstance(value, type):
        names = [base.__module__ for base in value.__mro__]
    else:
        names = [value.__module__] if isinstance(value, (FunctionType, BuiltinFunctionType)) else []
    return any(str(name).partition(".")[0] == "torch" for name in names)


class PluginLoader:
    """Loads entry points into a pluggy manager and keeps what failed.

    Args:
        accept: called with each registered plugin module and its :class:`Plugin`; runs the plugin's hooks
            and raises to refuse it.
    """

    def __init__(self, accept: Callable[[ModuleType, Plugin], None]) -> None:
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        self.plugins: list[Plugin] = []
        self.modules: list[tuple[ModuleType, Plugin]] = []
        self._accept = accept

    def load(self) -> None:
        """Load every wanted entry point. ``NAF_HUB_PLUGINS=a,b`` names the wanted ones (empty: naf-hub's own).

        Raises:
            PluginError: under ``NAF_HUB_STRICT=1``, for the first plugin that fails.
        """
        wanted = _wanted()
        taken: dict[str, str] = {}
        for entry, plugin in _entry_points():
            name = plugin.distribution
            own = name == OWN_DISTRIBUTION
            if wanted is not None and entry.name not in wanted and not (own and not wanted):
                continue
            if entry.name in taken:
                error = (
                    f"entry point {entry.name!r} is already provided by {taken[entry.name]}; "
                    f"rename it in {name} or uninstall one of them"
                )
                self._failed(plugin, error, None)
                continue
            taken[entry.name] = name
            self._load_one(entry, plugin)

    def _load_one(self, entry: importlib.metadata.EntryPoint, plugin: Plugin) -> None:
        module: Any = None
        label = f"{plugin.distribution}:{plugin.name}"
        try:
            before, started = set(sys.modules), time.perf_counter()
            with contextlib.redirect_stdout(sys.stderr):  # what it prints must not get into --json
                module = entry.load()
            if _imports_torch(before):
                plugin = dataclasses.replace(plugin, torch_seconds=time.perf_counter() - started)
            self.manager.register(module, name=label)
            # check_pending finds hookimpls that match no hook; per plugin, so that only the offender goes.
            self.manager.check_pending()
            hooks = tuple(sorted(caller.name for caller in self.manager.get_hookcallers(module) or ()))
            if not hooks:
                raise PluginError("implements no naf-hub hook; decorate functions with @naf_hub.hookimpl")
            plugin = dataclasses.replace(plugin, hooks=hooks)
            self._accept(module, plugin)
        except (Exception, SystemExit) as error:  # a plugin must not be able to end the host either
            if module is not None and self.manager.is_registered(module):
                self.manager.unregister(module)
            self._failed(plugin, one_line(error), error)
        else:
            self.plugins.append(plugin)
            self.modules.append((module, plugin))

    def _failed(self, plugin: Plugin, message: str, error: BaseException | None) -> None:
        text = f"plugin {plugin.name!r} of {plugin.distribution} {plugin.version} failed to load: {message}"
        if strict():
            raise PluginError(text) from error
        self.plugins.append(dataclasses.replace(plugin, error=message))
        log.warning("%s", text)

    def failures(self) -> Iterable[Plugin]:
        return [plugin for plugin in self.plugins if plugin.error]

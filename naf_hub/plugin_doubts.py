"""What is wrong with plugins that load all the same, or that are installed and never looked at."""

from __future__ import annotations

import difflib
import importlib.metadata
import re

from packaging.requirements import InvalidRequirement, Requirement

from .plugins import GROUP, Plugin, described
from .version import __version__


def doubts_about(plugin: Plugin) -> list[str]:
    """One line for each thing that its author should mend, or its user know."""
    found: list[str] = []
    if plugin.torch_seconds is not None:
        found.append(
            f"{plugin.module} imports torch ({plugin.torch_seconds:.1f} s), and every naf-hub command waits for it; "
            "import it in the module that target= names"
        )
    if plugin.requires and not _met(plugin.requires):
        found.append(
            f"requires {plugin.requires}, and naf-hub is {__version__}; install versions that go together"
        )
    return found


def _met(requirement: str) -> bool:
    try:
        return Requirement(requirement).specifier.contains(__version__, prereleases=True)
    except InvalidRequirement:
        return True  # says nothing that could be compared


def misspelt_plugins() -> list[Plugin]:
    """Entry points of groups whose names are nearly that of naf-hub's, each with an error that says so."""
    found: dict[tuple[str, str, str], Plugin] = {}
    for distribution in importlib.metadata.distributions():
        try:
            near = [entry for entry in distribution.entry_points if _nearly_ours(entry.group)]
        except Exception:  # metadata of unrelated packages can be anything
            continue
        for entry in near:
            error = f"{entry.name} is not loaded: its entry-point group {entry.group!r} is misspelt; it is {GROUP!r}"
            plugin = described(distribution, entry, error=error)
            found.setdefault((plugin.distribution.lower(), entry.group, entry.name), plugin)
    return list(found.values())


def _nearly_ours(group: str) -> bool:
    plain, ours = (re.sub(r"[^a-z0-9]", "", name.lower()) for name in (group, GROUP))
    if group == GROUP:
        return False
    return plain.startswith(ours) or difflib.SequenceMatcher(None, plain, ours).ratio() > 0.8

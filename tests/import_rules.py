"""What modules import, read from their source without running it, and the rules that this project keeps."""

from __future__ import annotations

import ast
import dataclasses
import functools
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

# Of this Python, and what later ones add, which is imported where it is there.
STDLIB = sys.stdlib_module_names | {"tomllib"}

CORE = "naf_hub"
COMMANDS = f"{CORE}.commands"
# Distributions whose import package is called otherwise.
DISTRIBUTIONS = {
    "open_clip": "open-clip-torch",
    "PIL": "pillow",
    "pywt": "pywavelets",
    "skimage": "scikit-image",
}
VAGUE = {"common", "helper", "helpers", "misc", "stuff", "tools", "util", "utils"}


@dataclasses.dataclass(frozen=True)
class Import:
    """One imported thing.

    Attributes:
        source: module that imports.
        target: module that is imported, or imported from.
        name: what is taken from it; ``None`` for the module itself.
        at_start: whether it happens when ``source`` is imported, not in a function or for type checkers only.
    """

    source: str
    target: str
    name: str | None
    at_start: bool


@dataclasses.dataclass(frozen=True)
class Tree:
    """Modules by dotted name: their source; packages are named without ``__init__``.

    Attributes:
        packages: the modules that are packages.
    """

    sources: Mapping[str, str]
    packages: frozenset[str] = frozenset()

    @classmethod
    def read(cls, roots: Iterable[Path]) -> Tree:
        """The modules of import packages that lie in these folders: ``plugins/`` or the project itself."""
        sources: dict[str, str] = {}
        packages: set[str] = set()
        for root in roots:
            for folder in sorted(root.glob(f"{CORE}*")):
                for file in sorted(folder.rglob("*.py")):
                    parts = file.relative_to(root).with_suffix("").parts
                    module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                    sources[module] = file.read_text(encoding="utf-8")
                    if parts[-1] == "__init__":
                        packages.add(module)
        return cls(sources, frozenset(packages))

    @property
    def plugins(self) -> set[str]:
        """Import packages beside the core."""
        return {package_of(module) for module in self.sources} - {CORE}

    def imports(self) -> list[Import]:
        """Everything any module imports, wherever in the module, and what it takes from modules of the core."""
        return self._imports

    @functools.cached_property
    def _imports(self) -> list[Import]:
        return [found for module, source in self.sources.items() for found in self._of(module, source)]

    def _of(self, module: str, source: str) -> Iterator[Import]:
        aliases: dict[str, str] = {}
        parsed = ast.parse(source)
        for node, at_start in _walk(parsed, True):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    yield Import(module, alias.name, None, at_start)
                    aliases[alias.asname or alias.name] = alias.name
            elif isinstance(node, ast.ImportFrom):
                target = self._absolute(module, node)
                for alias in node.names:
                    inner = f"{target}.{alias.name}"
                    # ``from package import module`` imports that module, not a name of the package.
                    if inner in self.sources or _is_core_module(inner):
                        yield Import(module, inner, None, at_start)
                        aliases[alias.asname or alias.name] = inner
                    else:
                        yield Import(module, target, alias.name, at_start)
        for node in ast.walk(parsed):
            if isinstance(node, ast.Attribute) and (value := _dotted(node.value)) in aliases:
                target = aliases[value]
                if package_of(target) == CORE and f"{target}.{node.attr}" not in self.sources:
                    yield Import(module, target, node.attr, False)

    def _absolute(self, module: str, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = module.split(".")
        kept = parts[: len(parts) - node.level + (module in self.packages)]
        return ".".join([*kept, *([node.module] if node.module else [])])


def _walk(node: ast.AST, at_start: bool) -> Iterator[tuple[ast.AST, bool]]:
    for child in ast.iter_child_nodes(node):
        inside = at_start and not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            inside = False
        yield child, inside
        yield from _walk(child, inside)


def _dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return ""


def _is_core_module(module: str) -> bool:
    """Whether the installed core has this module, for trees of plugins alone."""
    if package_of(module) != CORE:
        return False
    path = Path(__file__).parent.parent.joinpath(*module.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def package_of(module: str) -> str:
    """The import package of a module."""
    return module.partition(".")[0]


def _within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


def core_needs_plugins(tree: Tree) -> set[str]:
    """The core imports no plugin, and names none in a string that could be imported."""
    found = {
        f"{i.source} imports {i.target}"
        for i in tree.imports()
        if package_of(i.source) == CORE and package_of(i.target) in tree.plugins
    }
    for module, source in tree.sources.items():
        if package_of(module) != CORE:
            continue
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                package = re.match(r"(?:package://)?(\w+)(?=[.:/]|$)", node.value)
                if package and package[1] in tree.plugins:
                    found.add(f"{module} names {package[1]}")
    return found


def plugins_need_plugins(tree: Tree) -> set[str]:
    """A plugin imports no other plugin."""
    return {
        f"{i.source} imports {i.target}"
        for i in tree.imports()
        if {package_of(i.source), package_of(i.target)} <= tree.plugins
        and package_of(i.source) != package_of(i.target)
    }


def commands_needed_elsewhere(tree: Tree) -> set[str]:
    """Nothing but the commands themselves, and ``python -m naf_hub``, imports the commands."""
    return {
        f"{i.source} imports {i.target}"
        for i in tree.imports()
        if _within(i.target, COMMANDS) and not _within(i.source, COMMANDS) and i.source != f"{CORE}.__main__"
    }


def import_circles(tree: Tree) -> set[str]:
    """No module needs itself to be imported, by whatever detour."""
    needs: dict[str, set[str]] = {module: set() for module in tree.sources}
    for found in tree.imports():
        if found.at_start and found.target in needs and found.target != found.source:
            needs[found.source].add(found.target)
    circles: set[str] = set()
    done: set[str] = set()

    def visit(module: str, path: list[str]) -> None:
        if module in path:
            circle = path[path.index(module) :]
            first = circle.index(min(circle))
            circles.add(" -> ".join([*circle[first:], *circle[:first], circle[first]]))
        elif module not in done:
            for target in sorted(needs[module]):
                visit(target, [*path, module])
            done.add(module)

    for module in sorted(needs):
        visit(module, [])
    return circles


def unlisted_imports(tree: Tree, listed: Mapping[str, Iterable[str]]) -> set[str]:
    """Plugins take from the core only what is listed for them: names by module."""
    return {
        f"{i.source} takes {i.target}.{i.name}"
        for i in tree.imports()
        if package_of(i.source) != CORE
        and package_of(i.target) == CORE
        and i.name is not None
        and not _within(i.target, COMMANDS)  # a rule of its own
        and i.name not in listed.get(i.target, ())
    }


def undeclared_imports(tree: Tree, required: Iterable[str], optional: Iterable[str]) -> set[str]:
    """What is imported from other distributions is required, or, in a function alone, at least an extra's."""
    required, optional = set(required), set(optional)
    found: set[str] = set()
    for i in tree.imports():
        package = package_of(i.target)
        distribution = DISTRIBUTIONS.get(package, package.replace("_", "-").lower())
        own = package == CORE or package in tree.plugins or package in STDLIB
        if not own and distribution not in (required if i.at_start else required | optional):
            found.add(f"{i.source} imports {package}")
    return found


def vague_modules(tree: Tree) -> set[str]:
    """Modules are named for what they hold."""
    return {module for module in tree.sources if VAGUE & set(module.split("."))}


def shared_names(tree: Tree, allowed: Iterable[str]) -> set[str]:
    """One name means one thing: no two modules of one name, but for the allowed names."""
    places: dict[str, list[str]] = {}
    for module in tree.sources:
        if module not in tree.packages:
            places.setdefault(module.rpartition(".")[2], []).append(module)
    return {
        f"{name}: {', '.join(sorted(modules))}"
        for name, modules in places.items()
        if len(modules) > 1 and name not in allowed
    }


def read_listed(page: str) -> dict[str, dict[str, str]]:
    """What a plugin may import, by module, with the sentence on it, as ``docs/plugin-api.md`` has it."""
    listed: dict[str, dict[str, str]] = {}
    for section in re.split(r"^## ", page, flags=re.MULTILINE)[1:]:
        module = re.match(r"`([\w.]+)`", section)
        if module:
            rows = re.findall(r"^\| `(\w+)` \| (.+) \|$", section, re.MULTILINE)
            listed[module[1]] = dict(rows)
    return listed
